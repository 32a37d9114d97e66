"""``/v1/conversations``: conversations and their items. A tenant sees its own and no others."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from app.responses.items import is_usable, listing, sent, shown
from app.routes.responses import Order
from app.routes.tenant import Limit, Tenant, TenantRoute
from sessions.responses.conversations import ConversationService
from sessions.responses.types import Conversation

_MAX_NEW_ITEMS = 20

Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16),
]


def _usable(content: dict[str, Any]) -> dict[str, Any]:
    if not is_usable(content):
        raise ValueError("not an item that the model can be given")
    return content


Items = Annotated[
    list[Annotated[dict[str, Any], AfterValidator(_usable)]], Field(max_length=_MAX_NEW_ITEMS)
]


class NewConversation(BaseModel):
    """Body of a creation."""

    items: Items | None = None
    metadata: Metadata | None = None


class Description(BaseModel):
    """Body of an update."""

    metadata: Metadata | None


class NewItems(BaseModel):
    """Body of an addition."""

    items: Items


def conversations_router(conversations: ConversationService) -> APIRouter:
    """The routes, over one service."""
    router = APIRouter(prefix="/v1/conversations", route_class=TenantRoute, tags=["conversations"])

    @router.post("")
    async def create(tenant: Tenant, new: NewConversation | None = None) -> dict[str, Any]:
        new = new or NewConversation()
        items = [sent(content) for content in new.items or ()]
        return _conversation(await conversations.create(tenant, items, new.metadata or {}))

    @router.get("/{conversation_id}")
    async def get(tenant: Tenant, conversation_id: str) -> dict[str, Any]:
        return _conversation(await conversations.get(tenant, conversation_id))

    @router.post("/{conversation_id}")
    async def update(tenant: Tenant, conversation_id: str, new: Description) -> dict[str, Any]:
        metadata = new.metadata or {}
        return _conversation(await conversations.describe(tenant, conversation_id, metadata))

    @router.delete("/{conversation_id}")
    async def delete(tenant: Tenant, conversation_id: str) -> dict[str, Any]:
        await conversations.delete(tenant, conversation_id)
        return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}

    @router.get("/{conversation_id}/items")
    async def list_items(
        tenant: Tenant,
        conversation_id: str,
        limit: Limit = 20,
        order: Order = "desc",
        after: str | None = None,
    ) -> dict[str, Any]:
        page = await conversations.items(
            tenant, conversation_id, limit, after, descending=order == "desc"
        )
        return listing(page.items, has_more=page.next is not None)

    @router.post("/{conversation_id}/items")
    async def add_items(tenant: Tenant, conversation_id: str, new: NewItems) -> dict[str, Any]:
        items = [sent(content) for content in new.items]
        await conversations.add(tenant, conversation_id, items)
        return listing(items, has_more=False)

    @router.get("/{conversation_id}/items/{item_id}")
    async def get_item(tenant: Tenant, conversation_id: str, item_id: str) -> dict[str, Any]:
        return shown(await conversations.item(tenant, conversation_id, item_id))

    @router.delete("/{conversation_id}/items/{item_id}")
    async def delete_item(tenant: Tenant, conversation_id: str, item_id: str) -> dict[str, Any]:
        return _conversation(await conversations.remove_item(tenant, conversation_id, item_id))

    return router


def _conversation(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": int(conversation.created_at.timestamp()),
        "metadata": conversation.metadata,
    }
