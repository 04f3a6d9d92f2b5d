"""The fast lane alone: the same constant answer as `bare_asgi`, straight from the parser's callbacks."""

from __future__ import annotations

import sys

import uvicorn

from bench.baselines.bare_asgi import BODY, app
from ingest_api.answers import Answers
from ingest_api.endpoints import connection_refusals
from shared.http.answer import Answer
from shared.http.exchange import Exchange, Headers
from shared.http.fastlane import protocol_class
from shared.http.lane import Lane, LaneLimits
from shared.settings import ApiSettings

ANSWER = Answer(200, BODY)


class Constant:
    """Takes everything."""

    body_bytes_max = 16_384

    def precheck(self, _method: bytes, _headers: Headers, _peer: str) -> Answer | None:
        """Never refuses."""

    def oversized(self, _method: bytes, _headers: Headers, _peer: str) -> Answer:
        """Never happens here."""
        return ANSWER

    def take(self, _exchange: Exchange) -> Answer | None:
        """Answer at once."""
        return ANSWER


def main(port: int) -> None:
    """Serve until killed."""
    refusals = connection_refusals(Answers(), ApiSettings())
    target = b"/campaignapi/resources/v3/shortlinkclicks"
    http = protocol_class(Lane({target: Constant()}, refusals, LaneLimits(), id, id))
    uvicorn.run(app, port=port, http=http, loop="uvloop", access_log=False, log_level="warning", lifespan="off")


if __name__ == "__main__":
    main(int(sys.argv[1]))
