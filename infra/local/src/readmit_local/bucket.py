"""The bucket of the models in any S3 server."""

from __future__ import annotations

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from readmit_local.errors import LocalError

BUCKET = "mlflow-artifacts"


def make_bucket(endpoint_url: str, access_key: str, secret_key: str, bucket: str = BUCKET) -> bool:
    """Make the bucket unless it is there; whether it was made. Waits about half a minute for the server.

    Raises `LocalError` when the server stays away or refuses.
    """
    client = boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=3,
            read_timeout=10,
            retries={"max_attempts": 8, "mode": "standard"},
        ),
    )
    try:
        # Not HEAD of the bucket: its answer has no body, so a refusal could not be told from absence.
        if bucket in [found["Name"] for found in client.list_buckets()["Buckets"]]:
            return False
        client.create_bucket(Bucket=bucket)
    except ClientError as error:
        said = error.response.get("Error", {})
        raise LocalError(
            f"{endpoint_url}: bucket {bucket} not made: {said.get('Code')} {said.get('Message')}"
        ) from error
    except BotoCoreError as error:
        raise LocalError(f"{endpoint_url}: bucket {bucket} not made: {error}") from error
    return True
