"""Numbers and names as they stand in sentences."""
import math
import re


def signed(x):
    """A difference of scores, to four decimals, or to two digits where it is smaller."""
    return "0" if x == 0 else f"{x:+.4f}" if abs(x) >= 5e-4 else f"{x:+.1e}"


def size(x):
    """The same without a sign."""
    return signed(abs(x)).lstrip("+")


def span(interval):
    """An interval of differences."""
    return f"[{signed(interval.low)}, {signed(interval.high)}]"


def times_as_fast(interval):
    """A speed-up with its interval, where it has one."""
    if math.isnan(interval.low):
        return f"{interval.value:.2f} times"
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}] times"


def listed(names, word="and"):
    """a, b and c; where a name has a comma of its own, a; b; and c."""
    names = list(names)
    if not names:
        return "nothing"
    if any("," in name for name in names):
        return "; ".join([*names[:-1], f"{word} {names[-1]}"]) if len(names) > 1 else names[0]
    return " ".join(filter(None, (", ".join(names[:-1]), word * (len(names) > 1), names[-1])))


def without_numbers(text):
    """What texts have in common that differ in their numbers alone."""
    return re.sub(r"\d[\d.e+-]*", "#", " ".join(text.split()))
