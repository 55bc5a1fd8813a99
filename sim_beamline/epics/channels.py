"""Channels of process variables: settings with their readbacks, and values that only the server writes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from caproto import AccessRights, ChannelChar, ChannelData, ChannelDouble, ChannelEnum, ChannelInteger

Written = float | int | str | bytes | Sequence[int]
"""Value that a client writes; a text comes as characters."""

Hook = Callable[[Written], Awaitable[None]]
"""Called with the value that a client writes; an error refuses the value."""


class Setting:
    """Mixin of channels that clients write: the hook is called before the value is taken."""

    hook: Hook

    async def verify_value(self, data: object) -> object:
        """Call the hook with a value that a client writes, and return the value."""
        value = await super().verify_value(data)  # type: ignore[misc]
        await self.hook(value)
        return value


class _DoubleSetting(Setting, ChannelDouble):  # type: ignore[misc]
    """Number that clients write."""


class _IntegerSetting(Setting, ChannelInteger):  # type: ignore[misc]
    """Whole number that clients write."""


class _EnumSetting(Setting, ChannelEnum):  # type: ignore[misc]
    """Choice that clients write."""


class _CharSetting(Setting, ChannelChar):  # type: ignore[misc]
    """Text that clients write."""


class _ReadOnly:
    """Mixin of channels that only the server writes."""

    def check_access(self, *_: object) -> AccessRights:
        """Return the right to read."""
        return AccessRights.READ


class _Double(_ReadOnly, ChannelDouble):  # type: ignore[misc]
    """Number that clients read."""


class _Integer(_ReadOnly, ChannelInteger):  # type: ignore[misc]
    """Whole number that clients read."""


class _Enum(_ReadOnly, ChannelEnum):  # type: ignore[misc]
    """Choice that clients read."""


class _Char(_ReadOnly, ChannelChar):  # type: ignore[misc]
    """Text that clients read."""


_KINDS: Mapping[type, tuple[type[ChannelData], type[ChannelData]]] = {
    float: (_DoubleSetting, _Double),
    int: (_IntegerSetting, _Integer),
    str: (_CharSetting, _Char),
}

TEXT_LENGTH = 256
"""Longest text of a channel [characters]."""


def setting(value: object, hook: Hook, choices: tuple[str, ...] | None = None) -> ChannelData:
    """Return a channel that clients write; ``value`` is a number, a text, or one of the choices."""
    channel = _channel(value, choices, 0)
    channel.hook = hook
    return channel


def reading(value: object, choices: tuple[str, ...] | None = None) -> ChannelData:
    """Return a channel that clients only read."""
    return _channel(value, choices, 1)


def _channel(value: object, choices: tuple[str, ...] | None, kind: int) -> ChannelData:
    if choices is not None:
        return (_EnumSetting, _Enum)[kind](value=value, enum_strings=list(choices))
    if isinstance(value, str):
        return _KINDS[str][kind](value=value, max_length=TEXT_LENGTH, report_as_string=False, string_encoding="utf-8")
    return _KINDS[type(value)][kind](value=value)
