"""FastAPI: `KEYRUSH_PUBLIC_PATHS=/docs,/openapi.json uvicorn minimal_fastapi:app`; see /docs."""

from typing import Annotated

from fastapi import FastAPI, Security
from fastapi.middleware.cors import CORSMiddleware

from keyrush import KeyrushMiddleware, Principal
from keyrush.fastapi import document, principal

app = FastAPI()
document(app)
app.add_middleware(KeyrushMiddleware)
app.add_middleware(  # for browsers, outside of the gate because it comes after it
    CORSMiddleware, allow_origins=["https://app.example"], allow_headers=["X-API-Key"]
)


@app.get("/hello")
async def hello(caller: Annotated[Principal, Security(principal)]) -> dict[str, str | None]:
    """Say who calls."""
    return {"key": caller.key_id, "account": caller.account_id}


@app.post("/hello")
async def change(
    caller: Annotated[Principal, Security(principal, scopes=["write:hello"])],
) -> dict[str, str | None]:
    """Need a scope."""
    return {"key": caller.key_id, "account": caller.account_id}
