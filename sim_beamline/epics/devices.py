"""Ophyd devices of the simulated beamline: the goniometer of motor records, and an areaDetector camera.

Channel Access finds the server by the environment, which must be set before ophyd is imported:
``EPICS_CA_ADDR_LIST=127.0.0.1``, ``EPICS_CA_AUTO_ADDR_LIST=NO`` and ``EPICS_CA_SERVER_PORT``.
"""

from __future__ import annotations

from ophyd import Component, Device, EpicsMotor, EpicsSignalRO, Kind
from ophyd.areadetector import EigerDetectorCam
from ophyd.status import SubscriptionStatus


class Goniometer(Device):  # type: ignore[misc]
    """Circles of sample and detector, energy, sample stage and temperature."""

    theta = Component(EpicsMotor, "theta")
    chi = Component(EpicsMotor, "chi")
    phi = Component(EpicsMotor, "phi")
    delta = Component(EpicsMotor, "delta")
    gamma = Component(EpicsMotor, "gamma")
    energy = Component(EpicsMotor, "energy")
    sample_x = Component(EpicsMotor, "sample_x")
    sample_y = Component(EpicsMotor, "sample_y")
    temperature = Component(EpicsMotor, "temperature")


class TriggeredEiger(Device):  # type: ignore[misc]
    """Camera that is armed when it is staged, and takes one image at each trigger.

    ``cam.stream_hdr_appendix`` leaves with the header of the series; `cdi_stream_plugins.bluesky.with_run_uid` writes
    the uid of the run there.  The exposure is ``cam.acquire_time``.
    """

    cam = Component(EigerDetectorCam, "cam1:")
    sequence_id = Component(EpicsSignalRO, "cam1:SequenceId", kind=Kind.normal)
    unique_id = Component(EpicsSignalRO, "Stats1:UniqueId_RBV", kind=Kind.normal)
    total = Component(EpicsSignalRO, "Stats1:Total_RBV", kind=Kind.hinted)
    maximum = Component(EpicsSignalRO, "Stats1:MaxValue_RBV", kind=Kind.normal)
    centroid_col = Component(EpicsSignalRO, "Stats1:CentroidX_RBV", kind=Kind.normal)
    centroid_row = Component(EpicsSignalRO, "Stats1:CentroidY_RBV", kind=Kind.normal)
    monitor = Component(EpicsSignalRO, "Stats1:Monitor_RBV", kind=Kind.normal)

    def __init__(self, prefix: str, *, n_triggers: int = 100_000, **keywords: object) -> None:
        super().__init__(prefix, **keywords)
        self.cam.kind = Kind.config
        self.cam.configuration_attrs = ("acquire_time", "photon_energy")
        self.stage_sigs = {"cam.num_images": 1, "cam.num_triggers": n_triggers, "cam.manual_trigger": 1}

    def stage(self) -> list[object]:
        """Arm the camera."""
        devices: list[object] = super().stage()
        self.cam.acquire.put(1, use_complete=True, wait=True, timeout=10)
        return devices

    def trigger(self) -> SubscriptionStatus:
        """Take one image; the status is done when the image has left."""
        counter = self.cam.num_images_counter
        before = counter.get(use_monitor=False)
        status = SubscriptionStatus(counter, lambda *, value, **_: value > before, run=False)
        self.cam.special_trigger_button.put(1, wait=False)
        return status

    def unstage(self) -> list[object]:
        """End the series."""
        self.cam.acquire.put(0, use_complete=True, wait=True, timeout=10)
        devices: list[object] = super().unstage()
        return devices
