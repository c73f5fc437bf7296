"""A user is disabled while its mail is in the spool, and retry.disabled_users is "deliver": the mail goes out."""

from __future__ import annotations

from pathlib import Path

from tests.smarthost_faults import opened


async def test_the_mail_of_a_disabled_user_goes_out_where_it_is_to_be_delivered(place: Path) -> None:
    async with opened(place, retry={"disabled_users": "deliver"}) as world:
        await world.sink.stop()
        heard = await world.send()
        await world.relay.tes("editSmtp", smtp_user_name=world.user.name, status="Disable")
        await world.sink.start()
        await world.await_told(heard.id, "delivered")
        await world.relay.tes("editSmtp", smtp_user_name=world.user.name, status="Enable")  # to be asked what it was charged
        await world.account()
        assert world.count(heard.mark) == 1
