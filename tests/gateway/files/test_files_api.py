"""/v1/files through the official client."""

import openai
import pytest

from gateway.files.shelf import CHUNK_BYTES
from gateway.tokenizers.tokenizer import Tokenizer
from tests.gateway.conftest import Running, running_gateway, says

BATCH = {"purpose": "batch"}


def client(gateway: Running) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{gateway.base_url}/v1", api_key="none", max_retries=0, timeout=20, _strict_response_validation=True
    )


async def test_a_file_is_uploaded_listed_read_and_deleted(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway, client(gateway) as api:
        content = bytes(range(256)) * (CHUNK_BYTES // 128) + b"end"
        file = await api.files.create(file=("lines.jsonl", content), purpose="batch")
        assert (file.filename, file.purpose, file.bytes, file.status) == (
            "lines.jsonl",
            "batch",
            len(content),
            "processed",
        )
        assert file.expires_at == file.created_at + 30 * 24 * 3600
        assert await api.files.retrieve(file.id) == file
        assert (await api.files.content(file.id)).content == content
        assert (await api.files.list()).data == [file]
        assert (await api.files.list(purpose="batch_output")).data == []
        deleted = await api.files.delete(file.id)
        assert deleted.deleted
        assert (await api.files.list()).data == []
        for call in (api.files.retrieve, api.files.delete, api.files.content):
            with pytest.raises(openai.NotFoundError, match="No such File object"):
                await call(file.id)


async def test_files_are_listed_page_by_page(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway, client(gateway) as api:
        made = [(await api.files.create(file=(f"{i}", b"x"), purpose="batch")).id for i in range(5)]
        assert [file.id async for file in await api.files.list(limit=2)] == made[::-1]
        page = await api.files.list(limit=2, order="asc", after=made[0])
        assert [file.id for file in page.data] == made[1:3]
        assert page.has_more
        with pytest.raises(openai.NotFoundError, match="'after'"):
            await api.files.list(after="file-none")


async def test_a_file_may_expire_earlier(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway, client(gateway) as api:
        expiry = {"anchor": "created_at", "seconds": 3600}
        file = await api.files.create(file=("a", b"x"), purpose="batch", expires_after=expiry)
        assert file.expires_at == file.created_at + 3600
        with pytest.raises(openai.BadRequestError) as refused:
            await api.files.create(file=("a", b"x"), purpose="batch", expires_after=expiry | {"seconds": 5})
        assert refused.value.param == "expires_after[seconds]"


async def test_files_are_bounded_one_by_one_and_together(byte_tokenizer: Tokenizer) -> None:
    limits = {"max_file_bytes": 100_000, "max_file_store_bytes": 150_000}
    async with running_gateway(byte_tokenizer, says(""), **limits) as gateway, client(gateway) as api:
        for size in (100_001, 500_000):
            with pytest.raises(openai.APIStatusError) as refused:
                await api.files.create(file=("a", b"x" * size), purpose="batch")
            assert (refused.value.status_code, refused.value.code) == (413, "file_too_large")
        await api.files.create(file=("a", b"x" * 100_000), purpose="batch")
        with pytest.raises(openai.RateLimitError) as full:
            await api.files.create(file=("b", b"x" * 60_000), purpose="batch")
        assert full.value.code == "storage_full"
        assert len((await api.files.list()).data) == 1


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"files": {"file": ("a", b"x")}}, "purpose"),
        ({"files": {"file": ("a", b"x")}, "data": {"purpose": "vision"}}, "purpose"),
        ({"data": BATCH}, "file"),
        ({"files": {"file": ("a", b"")}, "data": BATCH}, "file"),
        ({"files": {"file": ("a", b"x")}, "data": BATCH | {"expires_after[seconds]": "9"}}, "expires_after[anchor]"),
        ({"json": {"purpose": "batch"}}, "purpose"),
    ],
)
async def test_what_is_wrong_is_named(byte_tokenizer: Tokenizer, form: dict, param: str) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway:
        response = await gateway.http.post("/v1/files", **form)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param


async def test_a_broken_form_is_refused(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway:
        for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
            response = await gateway.http.post("/v1/files", content=b"--y\r\nno form", headers={"content-type": kind})
            assert response.status_code == 400, response.text
            assert "error" in response.json()
