"""A reconstruction in lab coordinates as a result file, and as the formats that result files are exported to."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

from cdi_stream.errors import ConfigError
from cdi_stream.files.exports import export_result
from cdi_stream.files.result_file import result_file, result_numbers, write_result
from cdi_stream.messages import Crystal
from cdi_stream.metrics import Metrics


def save_lab_object(path: Path, crystal: Crystal, metrics: Metrics) -> Path:
    """Write a crystal in lab coordinates as result file (``.h5``), CXI (``.cxi``) or VTI, and return the file's path.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    """
    numbers = {**result_numbers(crystal, crystal.verdict, metrics), "series": "", "curve_index": 0}
    content = result_file(crystal, crystal.affine.shape, numbers, _about())
    try:
        if path.suffix.lower() == ".h5":
            write_result(path, content)
            return path
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "result.h5"
            source.write_bytes(content)
            export_result(source, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error}; choose another place") from error
    return path


def _about() -> dict[str, str]:
    return {"program_name": f"cdi-stream {version('cdi-stream')}"}
