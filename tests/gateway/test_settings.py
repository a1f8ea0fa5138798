from gateway.settings import GatewaySettings

SETTINGS = GatewaySettings(pool="p", model="m", api_keys=("sk-secret",), redis_url="redis://:pass-word@h:1/0")


def test_no_secret_is_printed() -> None:
    for shown in (str(SETTINGS), repr(SETTINGS)):
        assert "sk-secret" not in shown
        assert "pass-word" not in shown
    assert "redis://:***@h:1/0" in str(SETTINGS)


def test_a_model_is_served_under_its_own_name_unless_others_are_given() -> None:
    assert SETTINGS.model_names == ("m",)
    assert GatewaySettings(pool="p", model="m", served_model_name=("a", "b")).model_names == ("a", "b")
