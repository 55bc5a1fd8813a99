"""Secrets from the environment, so that the configuration file can be read by everybody."""

from __future__ import annotations

from collections.abc import Mapping

SECRETS = {
    "CDI_STREAM_DASHBOARD_TOKEN": ("dashboard", "token"),
    "CDI_STREAM_TILED_API_KEY": ("publish", "tiled_api_key"),
}
"""Table and key of the configuration that each environment variable replaces."""


def with_secrets(tables: dict[str, object], environment: Mapping[str, str]) -> dict[str, object]:
    """Return the tables of a configuration file with the secrets of the environment; empty variables do not count."""
    for variable, (table, key) in SECRETS.items():
        content = tables.get(table, {})
        if (secret := environment.get(variable)) and isinstance(content, dict):
            tables = tables | {table: content | {key: secret}}
    return tables
