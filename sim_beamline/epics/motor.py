"""Motor record of an axis of the simulated instrument."""

from __future__ import annotations

import asyncio
import math

from caproto.server import PVGroup, pvproperty
from caproto.server.records import MotorFields
from caproto.server.server import PvpropertyData

from cdi_stream.errors import InputError
from sim_beamline.instrument.axis import Axis

TICK_S = 0.02
"""Time between two updates of a moving motor's readback [s]."""


class MotorRecord(PVGroup):  # type: ignore[misc]
    """Motor record; a put to VAL with completion completes when the motor has arrived.

    The fields VELO, BDST, STOP, HLM, LLM, RBV, DMOV, MOVN, EGU, LVIO and TDIR work as those of the EPICS record; other
    fields are there and do nothing.

    Parameters
    ----------
    prefix
        Name of the record.
    axis
        Axis that the record moves.
    backlash
        Backlash correction BDST at the start [unit of the axis].
    """

    motor = pvproperty(value=0.0, name="", record="motor", precision=6)

    def __init__(self, prefix: str, axis: Axis, backlash: float) -> None:
        super().__init__(prefix)
        self._axis = axis
        self._backlash = backlash

    @motor.startup  # type: ignore[no-redef]
    async def motor(self, instance: PvpropertyData, _: object) -> None:
        """Write the properties of the axis into the record."""
        model, fields = self._axis.model, instance.field_inst
        await instance.write(model.value, verify_value=False)
        await instance.write_metadata(units=model.unit, precision=6)
        for limit, dial, value in (
            (fields.user_high_limit, fields.dial_high_limit, model.high),
            (fields.user_low_limit, fields.dial_low_limit, model.low),
        ):
            shown = 0.0 if math.isinf(value) else value  # equal limits mean: no limits
            await limit.write(shown)
            await dial.write(shown)
        if not math.isinf(model.low) and not math.isinf(model.high):
            await instance.write_metadata(lower_ctrl_limit=model.low, upper_ctrl_limit=model.high)
        await fields.engineering_units.write(model.unit)
        await fields.velocity.write(model.speed)
        await fields.max_velocity.write(model.speed)
        await fields.bl_distance.write(self._backlash)
        await fields.motor_step_size.write(1e-6)
        await self._show(fields, is_moving=False)

    @motor.putter  # type: ignore[no-redef]
    async def motor(self, instance: PvpropertyData, value: float) -> float:
        """Move, and return when the motor has arrived."""
        fields: MotorFields = instance.field_inst
        self._axis.speed = min(max(1e-9, fields.velocity.value), self._axis.model.speed)
        try:
            self._axis.move(float(value), fields.bl_distance.value)
        except InputError:
            await fields.limit_violation.write(1)
            raise
        await fields.limit_violation.write(0)
        await fields.direction_of_travel.write(int(value > fields.user_readback_value.value))
        await self._follow(fields)
        return float(value)

    async def _follow(self, fields: MotorFields) -> None:
        """Write readbacks until the axis has arrived or STOP is written."""
        await fields.stop.write(0)
        await self._show(fields, is_moving=True)
        while self._axis.is_moving:
            await asyncio.sleep(TICK_S)
            if fields.stop.value:
                self._axis.stop()
            await self._show(fields, is_moving=True)
        await self._show(fields, is_moving=False)

    async def _show(self, fields: MotorFields, *, is_moving: bool) -> None:
        position = self._axis.readback
        await fields.user_readback_value.write(position)
        await fields.dial_readback_value.write(position)
        await fields.motor_is_moving.write(int(is_moving))
        await fields.done_moving_to_value.write(int(not is_moving))
