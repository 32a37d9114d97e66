"""Figures as an operator reads them."""

_KIB = 1024.0
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(amount: float) -> str:
    """Bytes of room: ``48 GiB``, ``1.5 TiB``."""
    power = 0
    while abs(amount) >= 1000 and power < len(_SIZES) - 1:
        amount /= _KIB
        power += 1
    return f"{_three(amount)} {_SIZES[power]}"


def gigabytes_a_second(rate: float) -> str:
    """Bytes a second, as disks are sold."""
    return f"{_three(rate / 1e9)} GB/s"


def terabytes_a_day(rate: float) -> str:
    """Bytes a day, as a disk's endurance is given."""
    return f"{_three(rate / 1e12)} TB"


def percent(share: float) -> str:
    """``97.4 %``."""
    return f"{100 * share:.1f} %"


def seconds(time: float) -> str:
    """``0.54 s``."""
    return f"{_three(time)} s"


def many(count: int, noun: str) -> str:
    """``1 user``, ``2 users``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _three(value: float) -> str:
    """About three digits, none of them a trailing zero behind the point."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
