"""/keys: API keys of the OpenAI-compatible endpoint."""

from fastapi import APIRouter, Response

from partitiond.api.answers import NewKey
from partitiond.api.replies import Service, no_content, problems, reply
from partitiond.api.schemas import KeyBody
from partitiond.ports import KeyRecord

router = APIRouter(prefix="/keys", tags=["keys"])


@router.get(
    "",
    operation_id="listKeys",
    summary="List API keys",
    response_model=list[KeyRecord],
)
async def list_keys(service: Service) -> Response:
    """All keys by id and label. The key itself is kept nowhere, only its SHA-256."""
    return reply(list(service.keys()))


@router.post(
    "",
    operation_id="createKey",
    summary="Create an API key",
    status_code=201,
    response_model=NewKey,
)
async def create_key(service: Service, body: KeyBody | None = None) -> Response:
    """Create a key. This answer is the only time it is shown."""
    asked = body or KeyBody()
    record, key = await service.create_key(asked.label, asked.models)
    return reply(NewKey(record, key), 201)


@router.delete(
    "/{key_id}",
    operation_id="removeKey",
    summary="Remove an API key",
    status_code=204,
    response_class=Response,
    responses=problems(404),
)
async def remove_key(key_id: str, service: Service) -> Response:
    """Remove a key; the endpoint refuses it from the next snapshot on."""
    await service.remove_key(key_id)
    return no_content()
