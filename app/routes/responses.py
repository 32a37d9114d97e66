"""``/v1/responses/{id}``: stored responses. A tenant sees its own and no others."""

from http import HTTPStatus
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from app.errors import Problem, bad_parameter, respond
from app.responses.items import listing, page
from app.routes.tenant import Limit, Tenant, TenantRoute
from sessions.responses.service import ResponseService
from sessions.types import InvalidCursor

_NOT_IN_BACKGROUND = Problem(
    HTTPStatus.BAD_REQUEST,
    "invalid_request_error",
    "response_not_cancellable",
    "Only a response in the background can be cancelled.",
)

Order = Literal["asc", "desc"]


def responses_router(responses: ResponseService) -> APIRouter:
    """The routes, over one service."""
    router = APIRouter(prefix="/v1/responses", route_class=TenantRoute, tags=["responses"])

    @router.get("/{response_id}", response_model=None)
    async def get_response(
        tenant: Tenant, response_id: str, stream: bool = False
    ) -> dict[str, Any] | JSONResponse:
        if stream:
            return respond(bad_parameter("stream", "A stored response is not streamed again."))
        return await responses.get(tenant, response_id)

    @router.delete("/{response_id}")
    async def delete_response(tenant: Tenant, response_id: str) -> dict[str, Any]:
        await responses.delete(tenant, response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @router.post("/{response_id}/cancel")
    async def cancel_response(tenant: Tenant, response_id: str) -> JSONResponse:
        await responses.get(tenant, response_id)
        return respond(_NOT_IN_BACKGROUND)

    @router.get("/{response_id}/input_items")
    async def list_input_items(
        tenant: Tenant,
        response_id: str,
        limit: Limit = 20,
        order: Order = "desc",
        after: str | None = None,
    ) -> dict[str, Any]:
        items = await responses.input_items(tenant, response_id)
        found = page(items, limit, after, descending=order == "desc")
        if found is None:
            raise InvalidCursor("The response has no such input item.")
        return listing(found[0], has_more=found[1])

    return router
