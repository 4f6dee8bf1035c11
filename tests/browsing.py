"""A headless Chromium that looks at a page and writes down what the page asks for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DESKTOP, PHONE = 1280, 390


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A driver; without a browser the test is skipped."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no chromium with chromedriver (Debian: chromium, chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = browser
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        opened.set_script_timeout(60)
        yield opened
    finally:
        opened.quit()


def resize(page: Any, width: int, height: int = 900) -> None:
    """Give the page a size of its own: windows cannot be as narrow as a phone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(page: Any, **features: str) -> None:
    """Media features as a person would set them: ``color_scheme="dark"``."""
    named = [{"name": f"prefers-{k.replace('_', '-')}", "value": v} for k, v in features.items()]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": named})


def requests(page: Any) -> list[str]:
    """Addresses that the page asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
