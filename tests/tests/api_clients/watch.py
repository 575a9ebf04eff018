"""Reads /v1/watch while an instance comes, drains and leaves, and holds each line against the OpenAPI document: HOST:PORT.

Schemathesis cannot: it waits for the end of each answer. The validator is the one that comes with it.
"""

import http.client
import json
import re
import sys

from jsonschema_rs import validator_for

address = sys.argv[1]
INSTANCE = "/v1/instances/default/watched/one"


def ask(method: str, path: str, body: dict | None = None) -> dict:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request(method, path, body and json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status in (200, 201), (method, path, answer.status, text)
    return json.loads(text)


document = ask("GET", "/openapi.json")
described = document["paths"]["/v1/watch"]["get"]["responses"]["200"]["content"]
[(kind, content)] = described.items()
name = re.search(r"`(\w+)`", content["schema"]["description"])[1]
schemas = document["components"]["schemas"]
for schema in schemas.values():
    if "properties" in schema:
        # Answers may grow, and what they have now is documented.
        schema.setdefault("additionalProperties", False)
validator = validator_for({"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})
assert not validator.is_valid({"unheard": "of"}) and not validator.is_valid({"initial": "yes"})

connection = http.client.HTTPConnection(address, timeout=60)
connection.request("GET", "/v1/watch?service=watched")
answer = connection.getresponse()
assert (answer.status, answer.headers["content-type"]) == (200, kind), answer.headers


def step() -> dict:
    """The next line that says something."""
    while line := answer.readline():
        if line.strip():
            found = json.loads(line)
            validator.validate(found)
            return found
    raise AssertionError("the watch has ended")


def until(what: str, holds) -> None:
    while not holds(found := step()):
        print(f"{what}: not yet in {found}", flush=True)


assert step().get("initial") is True
key = {"namespace": "default", "service": "watched", "id": "one"}
instance = {
    "service": "watched",
    "id": "one",
    "address": "127.0.0.1:9001",
    "version": "1.0.0",
    "tags": ["a"],
    "weight": 2,
    "endpoints": ["GET /watched/{id}"],
    "metadata": {"team": "b"},
}
ask("POST", "/v1/instances", {"instance": instance, "ttl": "30s"})
until("it is there", lambda found: [one["spec"]["version"] for one in found.get("changed", [])] == ["1.0.0"])
ask("POST", f"{INSTANCE}/drain", {"reason": "to see"})
until("it drains", lambda found: "DRAINING" in json.dumps(found.get("changed", [])))
ask("DELETE", INSTANCE)
until("it is gone", lambda found: found.get("removed") == [key])
