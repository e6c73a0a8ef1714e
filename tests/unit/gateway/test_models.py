"""What `GET /v1/models` says of a name is what a request for it gets."""

from windvane.assembly import snapshot_of
from windvane.config.schema import Config, ProviderConfig
from windvane.core.routing.table import Route
from windvane.gateway.data_plane.models import model_object, public_names

NAME = "codestral-latest"
PROVIDERS = {"mistral": ProviderConfig(api_key="k")}


def test_a_route_that_hides_a_model_is_shown_as_a_route() -> None:
    hidden = snapshot_of(
        Config(providers=PROVIDERS, routes={NAME: Route(otherwise="mistral-small-latest")})
    )
    plain = snapshot_of(Config(providers=PROVIDERS))
    route, model = model_object(NAME, hidden), model_object(NAME, plain)
    assert model["owned_by"] == "mistral" and "name" in model
    assert route == {**model_object("auto", plain), "id": NAME}
    assert model_object(f"mistral/{NAME}", hidden) == {**model, "id": f"mistral/{NAME}"}
    assert public_names(hidden).count(NAME) == 1
