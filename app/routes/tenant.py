"""What the routes of a tenant's own objects share: who asks, pages, and errors."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from app.errors import bad_parameter, problem_of, respond
from app.layer import TENANT
from sessions.paging import MAX_PAGE, Page


class TenantRoute(APIRoute):
    """Answers Valet's own errors; the application around it has other ideas of them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                return respond(bad_parameter(str(first["loc"][-1]), first["msg"]))
            except Exception as error:
                problem = problem_of(error)
                if problem is None:
                    raise
                return respond(problem)

        return answer


def _tenant(request: Request) -> str:
    tenant: str = request.scope[TENANT]
    return tenant


Tenant = Annotated[str, Depends(_tenant)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


def listing(page: Page[Any], describe: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """A page as the API gives it."""
    return {
        "object": "list",
        "data": [describe(item) for item in page.items],
        "has_more": page.next is not None,
        "next": page.next,
    }
