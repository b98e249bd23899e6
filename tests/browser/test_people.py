"""Several people, and people who mean harm: locks, versions, verdicts, names."""

from __future__ import annotations

from pathlib import Path

BOX = (22, 18, 41, 37)


def test_only_one_user_works_on_a_case(new_screen, folder: Path) -> None:
    anna, ben = new_screen().open("anna"), new_screen().open("ben")
    anna.open_case("other")
    anna.page.locator("#back").click()
    anna.page.wait_for_selector("#start:not([hidden])")
    assert "new" in anna.page.locator(".card", has_text="other").inner_text()
    anna.open_case("other")
    ben.page.reload()
    ben.is_ready()
    card = ben.page.locator(".card", has_text="other")
    assert "anna has it" in card.inner_text()
    ben.shoot("list-two-users")
    card.click()
    ben.page.wait_for_selector(".notice.error")
    assert "anna is at work on other" in ben.notices()
    assert ben.page.locator("#work").is_hidden()

    anna.go_to(5)
    anna.draw_box(BOX)
    anna.propagate()
    voxels = anna.num_voxels()
    anna.page.locator("#save-menu summary").click()
    anna.page.get_by_role("button", name="Save as done").click()
    anna.page.wait_for_selector("#case-state[data-state=done]")
    assert (folder / "labels" / "final" / "other.nii.gz").exists()
    anna.page.locator("#back").click()
    anna.page.wait_for_selector("#start:not([hidden])")

    ben.page.reload()
    ben.is_ready().open_case("other")
    assert ben.num_voxels() == voxels
    ben.page.get_by_role("button", name="Accept").click()
    ben.page.locator("#question input").fill("looks right")
    ben.page.locator("#question [value=yes]").click()
    ben.page.wait_for_selector("#case-state[data-state=reviewed]")
    ben.page.locator("#back").click()
    ben.page.wait_for_selector("#start:not([hidden])")


def test_names_are_shown_as_text(screen) -> None:
    hostile = "<img src=x onerror=document.title='caught'>"
    screen.open()
    card = screen.page.locator(".card", has_text="onerror")
    assert hostile in card.inner_text()
    card.click()
    screen.is_open()
    name = screen.page.locator(".object-name").first
    name.fill(hostile)
    name.blur()
    screen.go_to(5)
    screen.draw_box(BOX)
    screen.page.wait_for_selector("#measurements table")
    assert hostile in screen.page.locator("#measurements").inner_text()
    assert screen.page.title() != "caught"
    assert screen.page.locator("img[src=x]").count() == 0
    screen.shoot("hostile-names")
    screen.page.locator("#back").click()
    screen.page.wait_for_selector("#start:not([hidden])")
