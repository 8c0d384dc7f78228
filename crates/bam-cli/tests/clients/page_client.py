"""Headless Chromium on the page of `bam serve`: asks, chooses a token by keyboard, looks at the beliefs.

Arguments: address, folder for screenshots. Wants `selenium` and Debian's chromium and chromium-driver.
"""

import pathlib
import sys
import tempfile

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

address, folder = sys.argv[1:]
folder = pathlib.Path(folder)
folder.mkdir(parents=True, exist_ok=True)

for name, width, height in [("desktop", 1200, 1400), ("phone", 390, 1600)]:
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}", f"--window-size={width},{height}",
        ]:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
        try:
            wait = WebDriverWait(driver, 60)
            driver.get(f"http://{address}/")
            wait.until(lambda d: d.find_element(By.ID, "about").text)
            prompt = driver.find_element(By.ID, "prompt")
            prompt.clear()
            prompt.send_keys("The pass key is 71834. Remember it. 71834 is the pass key. The café is green.</s>")
            tokens = driver.find_element(By.ID, "tokens")
            tokens.clear()
            tokens.send_keys("12", Keys.ENTER)
            wait.until(lambda d: "length" in d.find_element(By.ID, "status").text
                       or "stop" in d.find_element(By.ID, "status").text)
            shown = driver.find_elements(By.CSS_SELECTOR, "#text span")
            answered = driver.find_elements(By.CSS_SELECTOR, "#text span.answer")
            assert 0 < len(answered) <= 12 < len(shown), (len(answered), len(shown))
            # Characters of several tokens are whole, and what spells a special token is text.
            text = driver.find_element(By.ID, "text").get_attribute("textContent").replace("·", "")
            assert "The café is green.</s>" in text and "bytes:" not in text, text
            assert all(span.get_attribute("textContent") for span in shown), text
            # The first token has only itself.
            shown[0].send_keys(Keys.ENTER)
            about = driver.find_element(By.ID, "beliefs-about")
            wait.until(lambda d: about.text)
            assert about.text.startswith("Nothing comes before the first token"), about.text
            assert not driver.find_element(By.ID, "looked").is_displayed()
            # By keyboard: to the last token, one back, and look.
            shown[0].send_keys(Keys.END)
            driver.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
            driver.switch_to.active_element.send_keys(Keys.ENTER)
            wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "#heads .head"))
            chosen = driver.find_element(By.CSS_SELECTOR, "#text [aria-selected='true']")
            assert chosen.get_attribute("data-index") == str(len(shown) - 2), chosen
            wide = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{name}: {wide} pixels too wide"
            severe = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
            severe = [entry for entry in severe if "favicon" not in entry["message"]]
            assert not severe, severe
            driver.save_screenshot(str(folder / f"{name}.png"))
        finally:
            driver.quit()
print(f"chromium: asked, chose a token by keyboard, saw the heads; {folder}/desktop.png, phone.png")
