"""What the control plane accepts of a service, said where the service is written: it would only refuse it in the log.

The rules are the contract's (proto/src: name.rs, route.rs, instance.rs, address.rs), and no stricter: a test asks a
control plane about each. Deliberately absent: endpoints, of which only those are registered that the contract can say.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from waypost.errors import ConfigurationError
from waypost.model import Registration

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL = re.compile(r"[!-~]{1,128}")
_SEGMENT = r"/(?!\.\.?(?:/|\Z))[!$&'()+,\-.0-9:;=@A-Z\[\]^_`a-z|~]+"
_PREFIX = re.compile(rf"(?=.{{1,1024}}\Z)(?:/|(?:{_SEGMENT}){{1,64}}/?)")
_WEIGHT = re.compile(r"\+?[0-9]{1,9}")
_PART_OF_HOST = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_HOST = re.compile(rf"(?=.{{1,253}}\Z)(?:{_PART_OF_HOST}\.)*(?![0-9]+\Z){_PART_OF_HOST}")
_LARGEST_WEIGHT = 65535
_MOST = 64
_LONGEST_TEXT = 4096
_MOST_SHOWN = 200

_A_NAME = "1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends, for example {!r}"
_A_LABEL = "a text of 1 to 128 visible ASCII characters without blanks, for example {!r}"
_A_TEXT = f"a text of at most {_LONGEST_TEXT} bytes"
_A_PREFIX = (
    "a path that begins with '/', of at most 1024 visible ASCII characters, with no empty, '.' or '..' segment and "
    "none of ? # % { } * \\ \" < >, for example '/users'; or '', for none"
)


def check(known: Registration) -> None:
    """Raises ConfigurationError, which names the first option that cannot be registered, its value and its rule."""
    for option, value, rule, keeps_it in _rules(known):
        if not keeps_it:
            raise ConfigurationError(f"@Service({known.service!r}): {option}={_short(value)} must be {rule}")


def is_host(text: str) -> bool:
    """Whether proxies can connect to it: an IP address that is none for listening only, or a DNS name."""
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return _HOST.fullmatch(text) is not None


def _rules(known: Registration) -> Iterator[tuple[str, object, str, bool]]:
    """Each option that has a rule, its value, the rule, and whether it is kept. What is empty is not sent."""
    yield "name", known.service, _A_NAME.format("users"), _fits(_NAME, known.service)
    namespace = known.namespace
    yield "namespace", namespace, _A_NAME.format("default"), not namespace or _fits(_NAME, namespace)
    yield "prefix", known.prefix, _A_PREFIX, known.prefix in (None, "") or _fits(_PREFIX, known.prefix)
    weight = known.weight
    is_weight = weight is None or (_fits(_WEIGHT, str(weight)) and int(weight) <= _LARGEST_WEIGHT)
    yield "weight", weight, f"a whole number from 0 (no traffic) to {_LARGEST_WEIGHT}", is_weight
    yield "version", known.version, _A_LABEL.format("1.0.0"), not known.version or _fits(_LABEL, known.version)
    zone = f"{_A_LABEL.format('eu-1')} (it may come from WAYPOST_ZONE)"
    yield "zone", known.zone, zone, not known.zone or _fits(_LABEL, known.zone)
    yield "tags", known.tags, f"at most {_MOST}: say more in metadata", len(known.tags) <= _MOST
    for index, tag in enumerate(known.tags):
        rule = f"{_A_LABEL.format('two-words')}: say longer things in metadata"
        yield f"tags[{index}]", tag, rule, _fits(_LABEL, tag)
    yield "description", known.description, _A_TEXT, not known.description or _is_text(known.description)
    metadata = known.metadata
    yield "metadata", metadata, f"at most {_MOST} entries, health_endpoint's among them", len(metadata) <= _MOST
    for name, value in metadata.items():
        yield "metadata: name", name, _A_LABEL.format("owner"), _fits(_LABEL, str(name))
        yield f"metadata[{name!r}]", value, _A_TEXT, _is_text(value)


def _fits(rule: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and rule.fullmatch(value) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value.encode(errors="replace")) <= _LONGEST_TEXT


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}…"
