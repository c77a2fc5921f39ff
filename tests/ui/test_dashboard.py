"""The dashboard works in headless Chromium, on a real daemon with a simulated eight-GPU host."""

import json

import pytest

from tests.machine import wait_for
from tests.ui.cdp import Browser, Page
from tests.ui.conftest import end_session, session_of
from tests.ui.demo import DEVICES, MODELS, Demo
from tests.ui.views import go

pytestmark = [pytest.mark.full, pytest.mark.browser]


def test_a_wrong_token_is_told_and_the_right_one_lets_in(browser: Browser, fleet: Demo) -> None:
    page = browser.page()
    page.goto(fleet.url)
    page.wait_for("document.activeElement.id === 'token'")
    page.fill("#token", "not-the-token-of-this-daemon")
    page.press("Enter")
    page.wait_for_text("the admin token is wrong")
    assert page.script("document.querySelector('[role=alert]') !== null")
    page.fill("#token", fleet.token)
    page.press("Enter")
    page.wait_for_text("Throughput")
    page.close()


def test_the_token_is_kept_nowhere_and_a_session_that_is_forgotten_asks_for_it(
    page: Page, fleet: Demo
) -> None:
    assert page.call("Network.getCookies", urls=[fleet.url])["cookies"] == []
    kept = page.script("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert session_of(page) in kept
    assert fleet.token not in kept
    assert fleet.token not in page.script("document.documentElement.outerHTML")

    end_session(page, fleet.url)
    page.wait_for_text("Admin token")
    page.errors.clear()  # the browser logs the 401


def test_devices_are_all_there_filled_to_scale_and_named_for_who_cannot_see(
    page: Page, fleet: Demo
) -> None:
    seen = fleet.overview()
    page.wait_for("document.querySelectorAll('.device .segment').length > 0")
    drawn = page.script("""Object.fromEntries(
        [...document.querySelectorAll('.bar-row')]
            .filter((row) => row.querySelector('.bar-name').innerText === 'Memory')
            .flatMap((row) => [...row.querySelectorAll('.segment')].map((s) => [
                s.dataset.key,
                s.getBoundingClientRect().width / row.querySelector('.fill').clientWidth,
            ])))""")
    assert len(drawn) == len(seen.replicas)
    memory = {view.device.id: view.device.memory_bytes for view in seen.devices}
    for replica in seen.replicas:
        share = replica.held_bytes / memory[replica.device_id]
        assert drawn[replica.engine] == pytest.approx(share, abs=0.012)

    names = page.wait_for("""[...document.querySelectorAll('.device h3, .chip')]
        .map((e) => e.innerText)""")
    numbered = [f"#{number} {view.device.id[:12]}" for number, view in enumerate(seen.devices)]
    assert sorted(names) == numbered
    assert len(names) == DEVICES

    label = page.wait_for("document.querySelector('.fill')?.getAttribute('aria-label')")
    assert label.startswith("Memory: ")
    assert "GiB" in label


def test_live_figures_follow_the_load_and_a_reader_keeps_the_place(page: Page) -> None:
    page.wait_for("""/[1-9]/.test([...document.querySelectorAll('.tile')]
        .find((t) => t.innerText.includes('Throughput')).querySelector('.figure').innerText)""")
    page.wait_for("document.querySelectorAll('.models .spark .line').length > 3")
    power = page.script("""[...document.querySelectorAll('.tile')]
        .find((t) => t.innerText.includes('Power')).querySelector('.figure').innerText""")
    assert float(power.replace(",", "").split()[0]) > 0

    page.script("document.querySelector('.models tbody a').focus()")
    before = page.focused()
    seen = page.script("document.querySelector('.tile .figure').innerText")
    page.wait_for(f"""[...document.querySelectorAll('.tile .figure, .models td')]
        .some((e) => e.innerText !== {json.dumps(seen)})""")
    page.wait_for("performance.getEntriesByName(location.origin + "
                  "'/overview?window_seconds=15').length >= 3")  # fmt: skip
    assert page.focused() == before


def test_a_model_shows_its_frontier_and_what_is_measured_beside_what_is_predicted(
    page: Page, fleet: Demo
) -> None:
    go(page, "#/models/qwen2.5-0.5b")
    model = next(m for m in fleet.overview().models if m.name == "qwen2.5-0.5b")
    view = model.frontiers[0]
    label = page.wait_for("document.querySelector('.plot svg').getAttribute('aria-label')")
    assert f"Planned at batch {view.planned_batch}." in label
    page.wait_for("document.querySelector('.plot .mark.working') !== null")
    points = page.script("document.querySelector('.plot').querySelectorAll('.point').length")
    assert points == len(view.points)
    assert page.script("document.querySelector('.plot .mark.planned polygon') !== null")

    page.wait_for_text("Replicas: predicted and measured")
    row = page.wait_for("""(() => {
        const cells = [...document.querySelectorAll('section:last-of-type tbody tr')]
            .map((r) => r.innerText).find((t) => t.includes('serving'));
        return cells && / ms/.test(cells) && cells;
    })()""")
    assert "≤" in row

    page.click("summary")
    page.wait_for("document.querySelector('details[open] tbody tr') !== null")
    assert "Batch" in page.text("details[open] table")

    page.script("location.hash = '#/models/nobody'")
    page.wait_for_text("No model is registered as nobody")


def press(page: Page, label: str) -> None:
    """The button of that name, and then what it opens."""
    page.script(f"""[...document.querySelectorAll('button')]
        .find((b) => b.innerText === {json.dumps(label)}).click()""")
    page.wait_for("document.querySelector('dialog[open]') !== null")


def close(page: Page) -> None:
    page.script("document.querySelector('dialog .primary').click()")
    page.wait_for("document.querySelector('dialog') === null")


def test_a_prompt_is_answered_and_a_model_s_requests_log_and_terms_are_at_hand(
    page: Page, fleet: Demo
) -> None:
    go(page, "#/models/qwen2.5-0.5b")
    page.click_text("Try it")
    page.fill("#try-prompt", "Hello")
    page.click("#try-send")
    page.wait_for("!document.querySelector('#try-send').disabled && "
                  "document.querySelector('#answer').innerText.length > 5")  # fmt: skip
    told = page.text("main .facts")
    assert "qwen2.5-0.5b-" in told
    assert "ms" in told
    assert page.errors == []
    go(page, "#/add")
    page.fill("#model", "opt-125m")
    page.click("#check-fit")
    page.wait_for("document.querySelector('.verdict') !== null")
    page.click_text("Log out ada")
    page.fill("#token", fleet.token)
    page.press("Enter")  # who logs in next sees nothing of it
    page.wait_for("document.querySelector('#model')?.value === ''")
    assert page.script("document.querySelector('.verdict') === null")
    page.script("location.hash = '#/try/qwen2.5-0.5b'")
    page.wait_for("document.querySelector('#try-prompt')?.value === ''")
    page.errors.clear()  # a question under way may have been refused
    assert page.text("#answer") == ""

    go(page, "#/models/qwen2.5-0.5b")
    press(page, "Requests")
    page.wait_for("document.querySelector('dialog tbody tr') !== null")
    assert "200 ok" in page.text("dialog tbody tr")
    close(page)
    press(page, "Log")
    assert "Starting to load model" in page.text("dialog .log")
    close(page)
    press(page, "Change…")
    page.fill("#change-aliases", "small, tiny")
    page.fill("#change-demand", "1,5")
    page.click("#confirm-change")
    page.wait_for("document.querySelector('dialog .problem').innerText.includes('not a number')")
    page.fill("#change-demand", "60")
    close(page)
    with fleet.client() as client:
        spec = client.model("qwen2.5-0.5b").record.spec
        assert (spec.aliases, spec.demand.req_per_s) == (("small", "tiny"), 60)
        assert spec.slo is not None
        assert spec.slo.tpot_seconds == 0.04

    go(page, "#/")
    press(page, "Cordon…")
    page.fill("#cordon-reason", "loud")
    close(page)
    page.wait_for_text("Nothing is placed here: loud")
    page.script("document.querySelector('[aria-label^=Uncordon]').click()")
    page.wait_for("!document.body.innerText.includes('Nothing is placed here')")
    page.goto(fleet.url)
    drawn = "document.querySelector('.tiles .spark .line')?.getAttribute('d').split('L').length"
    assert page.wait_for(drawn) > 2, "what was seen before it was loaded again"


def test_a_model_too_large_does_not_fit_and_nothing_is_kept(page: Page, fleet: Demo) -> None:
    go(page, "#/add")
    page.fill("#model", "opt-6.7b")
    page.fill("#name", "huge")
    page.fill("#demand", "100000")
    simulated(page)
    assert page.script("document.querySelector('#add-model').disabled")
    page.click("#check-fit")
    page.wait_for_text("huge does not fit.", seconds=300)
    assert fleet.names() == set(MODELS)


@pytest.mark.timeout(1800)
def test_a_model_is_checked_added_planned_found_in_the_events_and_removed(
    page: Page, fleet: Demo
) -> None:
    go(page, "#/add")
    page.fill("#model", "smollm2-360m")
    page.fill("#demand", "5")
    simulated(page)
    page.click("#check-fit")
    page.wait_for_text("smollm2-360m fits.", seconds=300)
    assert "requests/s of 5 wanted" in page.text("main")
    page.fill("#demand", "6")
    page.wait_for_text("The form has changed since")
    assert page.script("document.querySelector('#add-model').disabled")
    page.click("#check-fit")
    page.wait_for("!document.querySelector('#add-model').disabled", seconds=300)
    page.click("#add-model")
    page.wait_for_text("smollm2-360m is registered.")
    page.wait_for("location.hash === '#/models/smollm2-360m'")
    with fleet.client() as client:
        assert client.model("smollm2-360m").record.spec.demand.req_per_s == 6.0

    before = fleet.overview().plan_id
    go(page, "#/plan")
    page.wait_for_text(before)
    page.click("#make-plan")
    page.wait_for("document.querySelector('#apply')", seconds=300)
    assert "smollm2-360m-1" in page.text("table.diff")
    page.click("#apply")
    page.wait_for("document.querySelector('dialog[open]')")
    page.press("Escape")
    page.wait_for("!document.querySelector('dialog')")
    assert page.focused() == "Apply…, button"
    assert fleet.overview().plan_id == before
    page.press("Enter")
    page.click("#confirm-apply")
    page.wait_for_text("is applied; replicas follow it now.", seconds=60)
    page.wait_for("document.querySelector('#how-far')")

    def serves() -> bool:
        with fleet.client() as client:
            return client.model("smollm2-360m").replicas_serving > 0

    wait_for("the new model to serve", serves, seconds=300)
    page.wait_for_text(" runs: ", seconds=300)
    assert not page.script("document.querySelector('#how-far progress') !== null")
    go(page, "#/")
    page.wait_for("""[...document.querySelectorAll('.device a')]
        .some((e) => e.innerText.includes('smollm2-360m-1'))""")

    go(page, "#/events")
    page.choose("#kind", "plan-applied")
    page.wait_for("""[...document.querySelectorAll('.event-table tbody tr')]
        .every((row) => row.children[1].innerText === 'plan-applied')""")
    assert "ada" in page.text(".event-table tbody tr td:last-child")
    page.choose("#kind", "")
    page.fill("#words", "smollm2-360m")
    page.wait_for("""[...document.querySelectorAll('.event-table tbody tr')]
        .every((row) => row.innerText.includes('smollm2-360m'))""")

    page.script("location.hash = '#/models/smollm2-360m'")
    page.click_text("Remove…")
    page.wait_for_text("Remove smollm2-360m?")
    page.click_text("Remove smollm2-360m", "dialog button")
    page.wait_for_text("smollm2-360m is removed.")
    assert fleet.names() == set(MODELS)


def test_a_key_is_made_shown_once_rotated_and_revoked(page: Page, fleet: Demo) -> None:
    go(page, "#/keys")
    page.click("#new-key")
    page.wait_for("document.activeElement.id === 'key-label'")
    page.call("Input.insertText", text="batch jobs")
    page.fill("#key-rate", "600")
    page.click("#key-model-opt-125m")
    page.click("#create-key")
    first = page.wait_for("document.querySelector('#secret')?.value")
    assert first.startswith("sk-")
    page.click("#secret-done")
    page.wait_for("!document.querySelector('dialog')")
    assert first not in page.script("document.documentElement.outerHTML")
    with fleet.client() as client:
        (key,) = [one for one in list(client.keys()) if one.label == "batch jobs"]
    assert (key.label, key.models) == ("batch jobs", ("opt-125m",))
    assert key.rates.requests_per_minute == 600

    page.click("[aria-label='Rotate batch jobs']")
    page.choose("#grace", "0")
    page.click("#confirm-rotate")
    second = page.wait_for("document.querySelector('#secret')?.value")
    assert second != first
    page.click("#secret-done")

    page.click("[aria-label='Revoke batch jobs']")
    page.click("#confirm-revoke")
    page.wait_for_text("batch jobs is revoked.")
    with fleet.client() as client:
        assert key.id not in {left.id for left in list(client.keys())}

    go(page, "#/keys")
    page.click("#new-key")
    page.fill("#key-days", "9999999")
    page.click("#create-key")
    page.wait_for("document.querySelector('dialog [role=alert]').innerText.length > 0")
    page.press("Escape")
    page.wait_for("!document.querySelector('dialog')")
    page.errors.clear()  # the browser logs the 422


def test_nothing_comes_from_other_hosts_and_names_are_text(page: Page, fleet: Demo) -> None:
    stopped = page.script("""new Promise((resolve) => {
        document.addEventListener('securitypolicyviolation',
            (e) => resolve(e.effectiveDirective), {once: true});
        fetch('http://127.0.0.1:9/').catch(() => {});
    })""")
    assert stopped == "connect-src"
    inline = page.script("""(() => {
        const s = document.createElement('script');
        s.textContent = 'window.ran = true';
        document.head.append(s);
        return window.ran === true;
    })()""")
    assert inline is False
    page.errors.clear()  # the browser logs what it stopped
    page.requests.clear()

    label = "<img src=x onerror=window.ran=true>"
    with fleet.client() as client:
        record, _ = client.create_key(label)
    try:
        go(page, "#/")
        go(page, "#/keys")
        page.wait_for_text(label)
        assert page.script("window.ran === undefined")
    finally:
        with fleet.client() as client:
            client.remove_key(record.id)


def test_a_daemon_that_does_not_answer_is_told_and_found_again(page: Page) -> None:
    page.call("Network.emulateNetworkConditions", offline=True, latency=0,
              downloadThroughput=-1, uploadThroughput=-1)  # fmt: skip
    page.wait_for_text("the daemon does not answer")
    page.call("Network.emulateNetworkConditions", offline=False, latency=0,
              downloadThroughput=-1, uploadThroughput=-1)  # fmt: skip
    page.wait_for("!document.body.innerText.includes('the daemon does not answer')")
    page.errors.clear()


def simulated(page: Page) -> None:
    """What a simulated host needs: its engines, nothing to measure."""
    page.script("document.querySelector('form details').open = true")
    page.choose("#engine_kind", "simulated")
    page.choose("#weights", "dummy")
    page.script("{ const auto = document.querySelector('#auto'); if (auto.checked) auto.click(); }")
