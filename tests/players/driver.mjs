// Drives real players in one headless Chromium. Reads one JSON object a line from standard input:
// `{"page": URL}` first, then a player's options for each session (see player.js; `limit_ms` is
// how long the viewer stays). Writes the players' reports, one JSON object a line, each with the
// session's `id`; `closed` is a session's last. Ends with its input, when every viewer has left.
// Besides a player's own, the options of a session have `backgrounds`, spans in which another page
// stands before the player's, and `company`, the options of a second player: with `same_browser` in
// a page of the same profile, else in a profile of its own.

import { createInterface } from 'node:readline';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { chromium } from 'playwright-core';

const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
  '--autoplay-policy=no-user-gesture-required', '--mute-audio', '--ignore-certificate-errors',
  '--disable-dev-shm-usage',
  // The lab's addresses are private ones.
  '--disable-features=LocalNetworkAccessChecks,PrivateNetworkAccessChecks',
];

// What a browser does with pages that nobody looks at. Off for viewers who do look, whose pages
// are many in one headless browser.
const BACKGROUND = [
  '--disable-background-timer-throttling', '--disable-renderer-backgrounding',
  '--disable-backgrounding-occluded-windows',
];

const write = (line) => process.stdout.write(`${line}\n`);
const say = (id, event, more = {}) =>
  write(JSON.stringify({ id, event, t: Date.now(), ...more }));

const start = (more, ignoreDefaultArgs = []) =>
  chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: [...FLAGS, ...more],
    ignoreDefaultArgs,
  });
const browser = await start(BACKGROUND);
write(JSON.stringify({ id: '', event: 'ready', t: Date.now(), version: browser.version() }));

// A context of its own: no cache, cookie or connection is another viewer's.
async function ownContext() {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  return { context, close: () => context.close() };
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

// A browser of its own whose pages can be in the background, and are then throttled. Playwright
// tells its pages that they are looked at, except in the profile of a browser that it only joins.
async function ownBrowser() {
  const port = await freePort();
  const own = await start([`--remote-debugging-port=${port}`], BACKGROUND);
  const joined = await chromium.connectOverCDP(`http://127.0.0.1:${port}`, { noDefaults: true });
  return { context: joined.contexts()[0], close: () => own.close() };
}

// Another page stands before this one for a while.
async function cover(context, page, { at_ms: at, for_ms: lasts }, isOver) {
  await sleep(at);
  if (isOver()) return;
  const front = await context.newPage();
  await front.bringToFront();
  await sleep(lasts);
  if (isOver()) return;
  await page.bringToFront();
  await front.close();
}

const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

// One player in a page of `context`, until its viewer leaves.
async function view(context, page_url, options) {
  let over = () => {};
  let isOver = false;
  const left = new Promise((resolve) => {
    over = (how) => { isOver = true; resolve(how); };
  });
  try {
    const page = await context.newPage();
    await page.exposeFunction('report', (line) => {
      write(line);
      if (line.includes('"event":"ended"')) over('ended');
    });
    page.on('crash', () => over('crash'));
    page.on('pageerror', (error) =>
      say(options.id, 'error', { fatal: false, kind: 'page', details: String(error).slice(0, 200) }));
    await page.goto(page_url);
    await page.evaluate((given) => window.play(given), options);
    const timer = setTimeout(() => over('left'), options.limit_ms);
    for (const span of options.backgrounds ?? []) {
      cover(context, page, span, () => isOver).catch((error) =>
        say(options.id, 'error', { fatal: true, kind: 'driver', details: String(error).slice(0, 400) }));
    }
    const how = await left;
    clearTimeout(timer);
    // Before the page goes: what the viewer saw ends here.
    say(options.id, 'leaving', { how });
  } catch (error) {
    say(options.id, 'error', { fatal: true, kind: 'driver', details: String(error).slice(0, 400) });
  }
}

async function session(page_url, options) {
  const { company, ...own } = options;
  const opened = [];
  const open = async (how) => {
    const place = await how();
    opened.push(place);
    return place.context;
  };
  try {
    const context = await open(options.backgrounds?.length ? ownBrowser : ownContext);
    const views = [view(context, page_url, own)];
    if (company) {
      await sleep(company.after_ms);
      views.push(view(company.same_browser ? context : await open(ownContext), page_url, company));
    }
    await Promise.all(views);
  } catch (error) {
    say(options.id, 'error', { fatal: true, kind: 'driver', details: String(error).slice(0, 400) });
  }
  for (const place of opened) await place.close();
  say(options.id, 'closed');
}

let page_url = '';
const sessions = [];
for await (const line of createInterface({ input: process.stdin })) {
  const given = JSON.parse(line);
  if (given.page) {
    page_url = given.page;
  } else {
    sessions.push(session(page_url, given));
  }
}
await Promise.all(sessions);
await browser.close();
