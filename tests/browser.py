"""Opens an HTML file in Chromium without a screen, and says what it shows.

    python -m tests.browser FILE WIDTH SCREENSHOT.png

Prints JSON: {'console': messages, 'requests': addresses, 'width': of what is
shown, 'figures': [[width, height], ...], 'tables': count, 'text': letters}.
Needs the extra `browser`, whose Qt brings a Chromium; in a process of its own,
for Qt wants the main thread and ends with it.
"""

import json
import os
import sys

_WAIT = 60_000  # milliseconds until it gives up; a busy machine takes some
_TALL = 6000  # pixels of a screenshot at most
_ASK = """JSON.stringify({
  width: document.scrollingElement.scrollWidth,
  height: document.scrollingElement.scrollHeight,
  figures: Array.from(document.querySelectorAll('svg')).map(figure => {
    const box = figure.getBoundingClientRect();
    return [box.width, box.height];
  }),
  tables: document.querySelectorAll('table').length,
  text: document.body.innerText.length,
})"""


def look(file: str, width: int, screenshot: str) -> dict:
  """What a browser window of a width makes of a file, see the module."""
  from PySide6 import QtCore, QtWidgets
  from PySide6 import QtWebEngineCore as engine
  from PySide6.QtWebEngineWidgets import QWebEngineView

  application = QtWidgets.QApplication(['browser'])
  found: dict = {'console': [], 'requests': []}

  class Page(engine.QWebEnginePage):
    def javaScriptConsoleMessage(self, level, text, line, source):
      found['console'].append(f'{line}: {text}')

  class Requests(engine.QWebEngineUrlRequestInterceptor):
    def interceptRequest(self, info):
      found['requests'].append(info.requestUrl().toString())

  profile, requests, view = (
    engine.QWebEngineProfile(),
    Requests(),
    QWebEngineView(),
  )
  profile.setUrlRequestInterceptor(requests)
  page = Page(profile, view)
  hidden = engine.QWebEngineSettings.WebAttribute.ShowScrollBars
  page.settings().setAttribute(hidden, False)
  view.setPage(page)
  view.resize(width, 844)
  view.show()

  def asked(text):
    found.update(json.loads(text))
    view.resize(width, min(found['height'], _TALL))
    QtCore.QTimer.singleShot(700, taken)  # until it is drawn anew

  def taken():
    view.grab().save(screenshot)
    application.quit()

  page.loadFinished.connect(lambda _: page.runJavaScript(_ASK, asked))
  page.load(QtCore.QUrl.fromLocalFile(os.path.abspath(file)))
  QtCore.QTimer.singleShot(_WAIT, application.quit)
  application.exec()
  view.setPage(None)
  page.deleteLater()
  return found


def main(argv) -> None:
  os.environ.setdefault('QT_QPA_PLATFORM', 'offscreen')
  os.environ.setdefault('QTWEBENGINE_DISABLE_SANDBOX', '1')  # root has none
  os.environ.setdefault('QTWEBENGINE_CHROMIUM_FLAGS', '--disable-gpu')
  found = look(argv[0], int(argv[1]), argv[2])
  print(json.dumps(found), flush=True)
  os._exit(0)  # Qt's own end waits for threads that may not be there


if __name__ == '__main__':
  main(sys.argv[1:])
