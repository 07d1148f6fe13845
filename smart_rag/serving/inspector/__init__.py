"""The inspector: the page that the server shows in a browser, and the endpoints that only this page uses."""
