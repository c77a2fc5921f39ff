"""Serves /keys: API keys of the OpenAI-compatible endpoint."""

from fastapi import APIRouter, Response

from partitiond.api.answers import NewKey
from partitiond.api.given import KeyControl
from partitiond.api.key_schemas import KeyBody, KeyPatch, RotateBody
from partitiond.api.replies import Route, no_content, problems, reply
from partitiond.core.keys.record import KeyRecord
from partitiond.core.views.lists import KeyView

router = APIRouter(prefix="/keys", tags=["keys"], route_class=Route)


@router.get(
    "",
    operation_id="listKeys",
    summary="List API keys",
    response_model=list[KeyRecord],
)
async def list_keys(keys: KeyControl) -> Response:
    """All keys by id and label. The key itself is kept nowhere, only its SHA-256."""
    return reply(list(keys.keys()))


@router.post(
    "",
    operation_id="createKey",
    summary="Create an API key",
    status_code=201,
    response_model=NewKey,
    responses=problems(404),
)
async def create_key(keys: KeyControl, body: KeyBody | None = None) -> Response:
    """Create a key. This answer is the only time it is shown.

    A model that is not registered is refused (404); an alias stands for its model.
    """
    record, key = await keys.create((body or KeyBody()).to_terms())
    return reply(NewKey(record, key), 201, {"Location": f"/keys/{record.id}"})


@router.get(
    "/{key_id}",
    operation_id="getKey",
    summary="Show an API key",
    response_model=KeyView,
    responses=problems(404),
)
async def get_key(key_id: str, keys: KeyControl) -> Response:
    """One key, and how much of it is used; `use` is null where the endpoint does not say."""
    return reply(await keys.show(key_id))


@router.patch(
    "/{key_id}",
    operation_id="changeKey",
    summary="Change an API key",
    response_model=KeyRecord,
    responses=problems(404),
)
async def change_key(key_id: str, body: KeyPatch, keys: KeyControl) -> Response:
    """Change what a key may do: absent fields stay, null returns to the default.

    It holds from the next request on; nothing is restarted.
    """
    terms = body.apply_to(keys.key(key_id))
    return reply(await keys.update(key_id, terms))


@router.post(
    "/{key_id}/rotate",
    operation_id="rotateKey",
    summary="Give an API key another secret",
    response_model=NewKey,
    responses=problems(404, 409),
)
async def rotate_key(key_id: str, keys: KeyControl, body: RotateBody | None = None) -> Response:
    """Another secret under the same id, with the same terms. This answer shows it, once.

    The present secret is taken until the grace ends; one from a rotation before ends now.
    """
    record, key = await keys.rotate(key_id, (body or RotateBody()).grace_seconds)
    return reply(NewKey(record, key))


@router.delete(
    "/{key_id}",
    operation_id="removeKey",
    summary="Remove an API key",
    status_code=204,
    response_class=Response,
    responses=problems(404),
)
async def remove_key(key_id: str, keys: KeyControl) -> Response:
    """Remove a key; the endpoint refuses it from now on."""
    await keys.remove(key_id)
    return no_content()
