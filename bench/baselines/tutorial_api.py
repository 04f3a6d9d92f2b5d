"""The API as a tutorial writes it: FastAPI, a pydantic model, one awaited send per click. No checks at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from aiokafka import AIOKafkaProducer
from fastapi import FastAPI, Request
from pydantic import BaseModel, Field


class Click(BaseModel):
    """A click's body."""

    short_url: str = Field(alias="short-url")
    user_agent: str | None = Field(None, alias="user-agent")
    ip_address: str | None = Field(None, alias="ip-address")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep a producer with the same guarantees as ours."""
    producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["CLICKLEDGER_KAFKA_BOOTSTRAP"], acks="all", enable_idempotence=True
    )
    await producer.start()
    app.state.producer = producer
    yield
    await producer.stop()


app = FastAPI(lifespan=lifespan)


@app.post("/campaignapi/resources/v3/shortlinkclicks")
async def report(click: Click, request: Request) -> dict[str, str]:
    """Publish one click and wait for it."""
    transaction_id = str(uuid.uuid4())
    value = orjson.dumps({"transaction_id": transaction_id, "click": click.model_dump()})
    await request.app.state.producer.send_and_wait(
        os.environ["CLICKLEDGER_TOPIC_RAW"], value, key=transaction_id.encode()
    )
    return {"transaction-id": transaction_id}
