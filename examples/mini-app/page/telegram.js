// What Telegram tells a page, and the one thing that it wants to hear. Telegram's own script
// would do it too, and could read every word here.
// Source: https://core.telegram.org/api/web-events and /api/bots/webapps
const parameters = new URLSearchParams(location.hash.slice(1));

const theme = JSON.parse(parameters.get("tgWebAppThemeParams") ?? "{}");
for (const [name, colour] of Object.entries(theme)) {
    const property = `--tg-theme-${name.replaceAll("_", "-")}`;
    document.documentElement.style.setProperty(property, colour);
}

const message = JSON.stringify({ eventType: "web_app_ready", eventData: {} });
globalThis.TelegramWebviewProxy?.postEvent("web_app_ready", "{}");
if (parent !== window) {
    parent.postMessage(message, "https://web.telegram.org");
}
