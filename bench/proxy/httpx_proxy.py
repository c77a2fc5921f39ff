"""Runs a simple proxy made of FastAPI and httpx. Started as a program by `proxies.py`."""

import argparse

import fastapi
import httpx
import uvicorn
import uvloop
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask


def make_app(path: str) -> fastapi.FastAPI:
    """The application, in front of an engine on a Unix socket."""
    app = fastapi.FastAPI()
    client = httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(
            uds=path, limits=httpx.Limits(max_connections=None, max_keepalive_connections=256)
        ),
        base_url="http://engine",
        timeout=60,
    )

    @app.post("/v1/completions")
    async def completions(request: fastapi.Request) -> Response:
        body = await request.json()
        upstream = client.build_request("POST", "/v1/completions", json=body)
        answer = await client.send(upstream, stream=True)
        if not body.get("stream"):
            content = await answer.aread()
            return Response(content, answer.status_code, media_type="application/json")
        return StreamingResponse(
            answer.aiter_raw(),
            media_type="text/event-stream",
            background=BackgroundTask(answer.aclose),
        )

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    config = uvicorn.Config(
        make_app(given.path), port=given.port, log_level="error", access_log=False
    )
    uvloop.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
