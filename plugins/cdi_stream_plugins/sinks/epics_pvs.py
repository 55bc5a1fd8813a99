"""The EPICS process variables of a result, and their Channel Access server."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from caproto import AlarmSeverity, AlarmStatus, ChannelData, ChannelType
from caproto.asyncio.server import Context
from caproto.server import AsyncLibraryLayer, PVGroup, pvproperty

GRADES = {
    "none": AlarmSeverity.NO_ALARM,
    "good": AlarmSeverity.NO_ALARM,
    "doubtful": AlarmSeverity.MINOR_ALARM,
    "failed": AlarmSeverity.MAJOR_ALARM,
}
"""Values of the variable ``Verdict`` in their order, with the alarm severity of each."""

STATES = ("idle", "measuring", "reconstructing")
"""Values of the variable ``State`` in their order."""

MAX_PATH = 1024
"""Largest number of characters of the variable ``File``."""

_NUMBERS = {
    "chi2": "chi2",
    "size_x": "size_lab_x_nm",
    "size_y": "size_lab_y_nm",
    "size_z": "size_lab_z_nm",
    "strain_low": "strain_low",
    "strain_high": "strain_high",
}
"""Variables with a number, each with its key in the event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """New value of one variable, by the name of its attribute in `ResultPVs`, with its alarm."""

    name: str
    value: str | float
    severity: AlarmSeverity = AlarmSeverity.NO_ALARM
    status: AlarmStatus = AlarmStatus.NO_ALARM


def updates_of(data: Mapping[str, object], raw_uid: str) -> list[Update]:
    """Return the new values of the variables after a reconstruction.

    ``data`` is its event without the name of the stream.  A number that is not known is an invalid NaN.
    """
    grade = str(data.get("verdict"))
    grade = grade if grade in GRADES else "none"
    status = AlarmStatus.NO_ALARM if GRADES[grade] == AlarmSeverity.NO_ALARM else AlarmStatus.STATE
    return [
        *(_number(name, data.get(key)) for name, key in _NUMBERS.items()),
        Update(name="run_uid", value=raw_uid[:39]),
        Update(name="file", value=str(data.get("file", ""))[:MAX_PATH]),
        Update(name="verdict", value=grade, severity=GRADES[grade], status=status),
    ]


def _number(name: str, value: object) -> Update:
    if isinstance(value, int | float) and math.isfinite(value):
        return Update(name=name, value=float(value))
    return Update(name=name, value=math.nan, severity=AlarmSeverity.INVALID_ALARM, status=AlarmStatus.UDF)


class ResultPVs(PVGroup):  # type: ignore[misc]
    """Variables of the newest result; sizes are in lab axes."""

    verdict = pvproperty(
        name="Verdict",
        alarm_group="verdict",
        value="none",
        dtype=ChannelType.ENUM,
        enum_strings=tuple(GRADES),
        record="mbbi",
        read_only=True,
    )
    state = pvproperty(
        name="State",
        alarm_group="state",
        value="idle",
        dtype=ChannelType.ENUM,
        enum_strings=STATES,
        record="mbbi",
        read_only=True,
    )
    chi2 = pvproperty(name="Chi2", alarm_group="chi2", value=math.nan, precision=4, record="ai", read_only=True)
    size_x = pvproperty(
        name="SizeX", alarm_group="size_x", value=math.nan, units="nm", precision=1, record="ai", read_only=True
    )
    size_y = pvproperty(
        name="SizeY", alarm_group="size_y", value=math.nan, units="nm", precision=1, record="ai", read_only=True
    )
    size_z = pvproperty(
        name="SizeZ", alarm_group="size_z", value=math.nan, units="nm", precision=1, record="ai", read_only=True
    )
    strain_low = pvproperty(
        name="StrainLow", alarm_group="strain_low", value=math.nan, precision=6, record="ai", read_only=True
    )
    strain_high = pvproperty(
        name="StrainHigh", alarm_group="strain_high", value=math.nan, precision=6, record="ai", read_only=True
    )
    run_uid = pvproperty(
        name="RunUid", alarm_group="run_uid", value="", dtype=ChannelType.STRING, record="stringin", read_only=True
    )
    file = pvproperty(
        name="File", alarm_group="file", value="", dtype=ChannelType.CHAR, max_length=MAX_PATH, read_only=True
    )

    async def show(self, updates: Sequence[Update], time_s: float) -> None:
        """Set variables and their alarms; ``time_s`` is the time of the event [s since the epoch]."""
        for update in updates:
            variable: ChannelData = getattr(self, update.name)
            await variable.write(
                update.value,
                verify_value=False,
                timestamp=time_s,
                severity=update.severity,
                status=update.status,
            )


class ChannelAccess(Context):  # type: ignore[misc]
    """Channel Access server of some variables.

    Where all interfaces are loopback addresses, no beacons are sent: they would go to other machines.
    """

    def __init__(self, variables: Mapping[str, ChannelData], interfaces: list[str], port: int | None) -> None:
        super().__init__(variables, interfaces)
        if port is not None:
            self.ca_server_port = port
        self._is_local = all(ipaddress.ip_address(interface).is_loopback for interface in interfaces)

    async def serve(self, begun: Callable[[], None]) -> None:
        """Serve until cancelled; ``begun`` is called when the sockets are bound.

        Raises
        ------
        OSError
            If an interface is no address of this machine.
        """
        for interface in self.interfaces:  # caproto tries a hundred ports first, and leaves their sockets open
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind((interface, 0))

        async def tell(_: AsyncLibraryLayer) -> None:
            """Tell that the server has begun."""
            begun()

        await self.run(startup_hook=tell)

    async def broadcast_beacon_loop(self) -> None:
        """Tell clients on the network that this server lives."""
        if self._is_local:
            await asyncio.Event().wait()
        await super().broadcast_beacon_loop()
