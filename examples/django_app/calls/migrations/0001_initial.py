"""The first tables."""

from typing import ClassVar

from django.db import migrations, models
from django.db.migrations.operations.base import Operation


class Migration(migrations.Migration):
    """Calls, and who was in them."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar[list[Operation]] = [
        migrations.CreateModel(
            name="CallRecord",
            fields=[
                ("call_id", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("call_type", models.CharField(max_length=16)),
                (
                    "state",
                    models.CharField(
                        choices=[("ringing", "Ringing"), ("active", "Active"), ("ended", "Ended")],
                        max_length=16,
                    ),
                ),
                ("initiator", models.CharField(max_length=128)),
                ("started_at", models.DateTimeField(db_index=True)),
                ("answered_at", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(null=True)),
                ("end_reason", models.CharField(blank=True, max_length=32)),
                ("told_at", models.DateTimeField()),
                ("told_seq", models.PositiveBigIntegerField()),
            ],
            options={"ordering": ("-started_at", "-call_id")},
        ),
        migrations.CreateModel(
            name="CallParticipant",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("user_id", models.CharField(db_index=True, max_length=128)),
                ("name", models.CharField(max_length=128)),
                ("state", models.CharField(max_length=16)),
                (
                    "call",
                    models.ForeignKey(
                        on_delete=models.CASCADE, related_name="participants", to="calls.callrecord"
                    ),
                ),
            ],
            options={
                "ordering": ("pk",),
                "constraints": [
                    models.UniqueConstraint(fields=("call", "user_id"), name="user_once_in_call")
                ],
            },
        ),
    ]
