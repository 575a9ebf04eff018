"""A service as Tapper's users write it: NAME VERSION PORT, then PREFIX where it has one, then its tags."""

import os
import sys

import uvicorn
from fastapi import FastAPI
from tapper import Service

name, version, port, *rest = sys.argv[1:]
prefix, tags = (rest[0] or None, rest[1:]) if rest else (None, [])
app = FastAPI()


@app.get("/users/{user_id}")
async def get_user(user_id: int):
    return {"user_id": user_id, "version": version, "pid": os.getpid()}


@app.post("/users/")
async def create_user(user: dict):
    return {"user": user}


Service(name, version, prefix=prefix, tags=tags, url=f"http://127.0.0.1:{port}", heartbeat_interval=0.2)(app)
uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
