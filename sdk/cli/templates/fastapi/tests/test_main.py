"""What {{name}} answers. No control plane is needed: what does not listen does not register."""

from app.main import app
from fastapi.testclient import TestClient

client = TestClient(app)


def test_it_greets_by_name() -> None:
    response = client.get("/hello/ada")
    assert (response.status_code, response.json()) == (200, {"message": "hello, ada"})


def test_it_is_healthy() -> None:
    assert client.get("/health").status_code == 200
