// In the page: one real player, and what it knows of itself. `window.play(options)` starts it;
// every report goes to `window.report(text)` as a JSON line. Times are Unix milliseconds.

const BUFFER_EVERY_MS = 250;
const LOOK_EVERY_MS = 100;
// Without a new frame for so long, and without media for one, the picture stands still.
const FROZEN_MS = 400;
const DRY_S = 0.1;
const video = document.getElementById('video');

let id = '';
// The viewer has just asked for another place; else it is the player that jumps.
let asked = false;
// Forgets what was seen of the playback before; set by `watch`.
let anew = () => {};
const say = (event, more = {}) =>
  window.report(JSON.stringify({ id, event, t: Date.now(), ...more }));

// When the browser made the event, not when this script got round to it.
const made = (event) => Math.round(performance.timeOrigin + event.timeStamp);

// Media seconds ahead of the playhead: of the tracks together, as the element plays them.
function ahead() {
  const { buffered, currentTime } = video;
  for (let n = 0; n < buffered.length; n += 1) {
    if (buffered.start(n) - 0.1 <= currentTime && currentTime <= buffered.end(n)) {
      return buffered.end(n) - currentTime;
    }
  }
  return 0;
}

// Start, stalls, seeks and pauses, from the element alone: the same for every player.
function watch() {
  let started = false;
  let stalled = false;
  let seeking = false;
  let paused = false;
  let frozen = false;
  let last_frame = 0;
  anew = () => {
    started = false;
    stalled = false;
    seeking = false;
    paused = false;
    frozen = false;
  };
  video.addEventListener('waiting', (event) => {
    if (started && !stalled && !seeking && !paused && !video.ended) {
      stalled = true;
      say('stall', { t: made(event), position: video.currentTime, ahead: ahead() });
    }
  });
  video.addEventListener('playing', (event) => {
    paused = false;
    if (!started) {
      started = true;
      say('started', { t: made(event) });
    } else if (stalled) {
      stalled = false;
      say('resumed', { t: made(event), position: video.currentTime });
    }
  });
  video.addEventListener('seeking', (event) => {
    const of_viewer = asked;
    asked = false;
    // Players nudge the playhead over small gaps while they stall: that is part of the stall.
    if (started && !stalled) {
      seeking = true;
      say('seeking', { t: made(event), of_viewer });
    }
  });
  video.addEventListener('seeked', (event) => {
    if (seeking) {
      seeking = false;
      say('seeked', { t: made(event) });
    }
  });
  video.addEventListener('pause', (event) => {
    if (started && !video.ended) {
      paused = true;
      say('paused', { t: made(event) });
    }
  });
  video.addEventListener('play', (event) => {
    // From here on the viewer wants to watch, whether or not there is anything to see.
    if (started && paused) {
      paused = false;
      say('unpaused', { t: made(event) });
    }
  });
  document.addEventListener('visibilitychange', (event) => {
    // A page that nobody looks at is shown no frames.
    last_frame = Date.now();
    say(document.hidden ? 'hidden' : 'shown', { t: made(event) });
  });
  video.addEventListener('ended', (event) => say('ended', { t: made(event) }));
  video.addEventListener('error', () =>
    say('error', { fatal: true, kind: 'element', details: video.error?.message ?? '' }));
  // Chromium lets the sound go on for three seconds without pictures before it says that it waits.
  // Whoever watches has been waiting since the last picture.
  const shown = () => {
    last_frame = Date.now();
    if (frozen) {
      frozen = false;
      say('moving', { t: last_frame });
    }
    video.requestVideoFrameCallback(shown);
  };
  video.requestVideoFrameCallback(shown);
  setInterval(() => {
    const idle = !started || seeking || paused || video.ended || document.hidden;
    if (!frozen && !idle && Date.now() - last_frame > FROZEN_MS && ahead() < DRY_S) {
      frozen = true;
      say('frozen', { t: last_frame });
    }
  }, LOOK_EVERY_MS);
  setInterval(() => {
    const quality = video.getVideoPlaybackQuality();
    say('buffer', {
      ahead: ahead(),
      position: video.currentTime,
      frames: quality.totalVideoFrames,
      dropped: quality.droppedVideoFrames,
    });
  }, BUFFER_EVERY_MS);
}

function playHls(options) {
  const config = { maxBufferLength: options.buffer_s, maxMaxBufferLength: options.buffer_s };
  if (options.cmcd !== 'none') {
    config.cmcd = {
      sessionId: options.sid,
      contentId: options.cid,
      useHeaders: options.cmcd === 'header',
      version: options.cmcd_version,
    };
  }
  const hls = new window.Hls(config);
  const { Events } = window.Hls;
  const unix = (of) => Math.round(performance.timeOrigin + of);
  hls.on(Events.MANIFEST_PARSED, () => say('manifest'));
  hls.on(Events.LEVEL_SWITCHED, (_, { level }) =>
    say('level', { bitrate: hls.levels[level]?.bitrate ?? 0 }));
  hls.on(Events.FRAG_LOADED, (_, { frag }) => {
    const { loading, total } = frag.stats;
    say('fragment', {
      requested: unix(loading.start),
      first: unix(loading.first),
      loaded: unix(loading.end),
      bytes: total,
      duration: frag.duration,
      number: typeof frag.sn === 'number' ? frag.sn : -1,
      media: frag.type,
    });
  });
  hls.on(Events.ERROR, (_, data) => {
    const code = data.response?.code ?? 0;
    say('error', { fatal: data.fatal, kind: data.type, details: data.details, code });
  });
  hls.attachMedia(video);
  say('load');
  hls.loadSource(options.url);
  video.play().catch((error) => say('error', { fatal: false, kind: 'play', details: error.message }));
  return () => hls.destroy();
}

function playDash(options) {
  const player = window.dashjs.MediaPlayer().create();
  const { events } = window.dashjs.MediaPlayer;
  const buffer = options.buffer_s;
  player.updateSettings({
    streaming: {
      buffer: {
        bufferTimeDefault: buffer,
        bufferTimeAtTopQuality: buffer,
        bufferTimeAtTopQualityLongForm: buffer,
      },
      cmcd: {
        enabled: options.cmcd !== 'none',
        sid: options.sid,
        cid: options.cid,
        mode: options.cmcd === 'header' ? 'header' : 'query',
        version: options.cmcd_version,
      },
    },
  });
  player.on(events.MANIFEST_LOADED, () => say('manifest'));
  player.on(events.QUALITY_CHANGE_RENDERED, ({ mediaType, newRepresentation }) => {
    if (mediaType === 'video') {
      say('level', { bitrate: newRepresentation?.bandwidth ?? 0 });
    }
  });
  player.on(events.FRAGMENT_LOADING_COMPLETED, ({ request, error }) => {
    if (request?.type !== 'MediaSegment' || error) return;
    say('fragment', {
      requested: request.startDate?.getTime() ?? 0,
      first: request.firstByteDate?.getTime() ?? 0,
      loaded: request.endDate?.getTime() ?? Date.now(),
      bytes: request.bytesTotal ?? 0,
      duration: request.duration ?? 0,
      number: request.index ?? -1,
      media: request.mediaType,
    });
  });
  player.on(events.ERROR, ({ error }) =>
    say('error', {
      fatal: true,
      kind: String(error?.code ?? ''),
      details: String(error?.message ?? error ?? '').slice(0, 200),
      code: error?.data?.response?.status ?? 0,
    }));
  say('load');
  player.initialize(video, options.url, true);
  return () => player.destroy();
}

window.play = (options) => {
  id = options.id;
  watch();
  const begin = options.family === 'dash.js' ? playDash : playHls;
  let end = begin(options);
  for (const at of options.restarts_ms ?? []) {
    setTimeout(() => {
      anew();
      end();
      end = begin(options);
    }, at);
  }
  for (const { at_ms: at, to_s: to } of options.seeks ?? []) {
    setTimeout(() => {
      asked = true;
      video.currentTime = to;
    }, at);
  }
  for (const { at_ms: at, for_ms: lasts } of options.pauses ?? []) {
    setTimeout(() => video.pause(), at);
    setTimeout(() => video.play(), at + lasts);
  }
};
