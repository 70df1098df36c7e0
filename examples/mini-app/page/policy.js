// Which workers may read a chat: those of the release beside this page.
import { Policy } from "./package/index.js";

const release = await fetch("release.json");

export const policy = Policy.ofRelease(await release.text(), {});
