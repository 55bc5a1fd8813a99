"""The configuration: one TOML file a deployment, unknown keys refused, units in names.

Each section is a frozen model in a module of its own; `file` puts them together.
"""

from cdi_stream.config.detector import DetectorConfig
from cdi_stream.config.documents import BusConfig, DocumentsConfig
from cdi_stream.config.file import Config, prepare_folder, read_config
from cdi_stream.config.geometry import GeometryConfig, InlineBeamline
from cdi_stream.config.images import read_image
from cdi_stream.config.outputs import DashboardConfig

__all__ = [
    "BusConfig",
    "Config",
    "DashboardConfig",
    "DetectorConfig",
    "DocumentsConfig",
    "GeometryConfig",
    "InlineBeamline",
    "prepare_folder",
    "read_config",
    "read_image",
]
