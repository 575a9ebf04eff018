"""{{name}}: a service that registers itself with Waypost while it runs, and drains before it stops."""

from fastapi import FastAPI
from waypost import Service

app = FastAPI(title="{{name}}")


@app.get("/hello/{name}")
def hello(name: str) -> dict[str, str]:
    """Greet somebody."""
    return {"message": f"hello, {name}"}


@app.get("/health", include_in_schema=False)
def health() -> dict[str, str]:
    """Say that this instance can answer."""
    return {"status": "ok"}


Service(name="{{name}}", version="0.1.0")(app)
