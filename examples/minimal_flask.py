"""Flask: `flask --app minimal_flask run`."""

from flask import Flask, request

from keyrush.wsgi import KeyrushMiddleware

app = Flask(__name__)
app.wsgi_app = KeyrushMiddleware(app.wsgi_app)  # type: ignore[method-assign]  # Flask's own advice


@app.route("/hello", methods=["GET", "POST"])
def hello() -> dict[str, str]:
    """Say who calls; posting needs a scope."""
    caller = request.environ["keyrush.principal"]
    if request.method == "POST":
        caller.require_scope("write:hello")
    return {"key": caller.key_id, "account": caller.account_id}
