"""What the server refuses, as its gRPC service words it behind an HTTP gateway."""

from __future__ import annotations

from typing import Any

# gRPC status codes by name, with the HTTP status that the gateway makes of them.
HTTP_STATUS = {3: 400, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 12: 501, 13: 500, 14: 503, 16: 401}
CODE_OF_STATUS = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 501: 12, 503: 14}


class RefusalError(Exception):
    """A request that is answered with an error; ``code`` is the gRPC status code."""

    def __init__(self, code: int, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status or HTTP_STATUS[code]

    def body(self) -> dict[str, Any]:
        """The gateway's JSON."""
        return error_body(self.code, str(self))


def error_body(code: int, message: str) -> dict[str, Any]:
    """An error as the gateway writes it."""
    return {"error": message, "code": code, "message": message, "details": []}


def invalid(message: str) -> RefusalError:
    """Wrong in itself, whatever the state."""
    return RefusalError(3, message)


def not_found(what: str, name: str) -> RefusalError:
    """No such object."""
    return RefusalError(5, f"{what} {name} not found")


def exists(message: str) -> RefusalError:
    """The name is taken."""
    return RefusalError(6, message)


def precondition(message: str) -> RefusalError:
    """Not in the state that the object is in."""
    return RefusalError(9, message)


def unauthenticated() -> RefusalError:
    """No key, or none that counts; the message never repeats it."""
    return RefusalError(16, "request not authenticated: the API key is missing, wrong or expired")
