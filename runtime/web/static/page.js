// The live page. Protocol: runtime/web/messages.py. Everything shown comes from there, colours included; texts from the
// server are only ever set as text.
"use strict";

const FRAME = 1000 / 30; // ms between drawings of the charts
const GONE = 1.5; // media seconds without a prediction after which a face counts as gone,
const FORGET = 8; // and after which its card is taken away
const SILENCE = 7000; // ms without a word from the server (it speaks every 2 s) after which the connection counts as dead
const MOST_TRACKS = 24; // cards per source; more faces are still marked in the picture
const PERIOD = 5; // media seconds between marks of the time axis
const DARK = "#0d1014";
const LIGHT = "#ffffff";
const UNSURE = "rgb(75 75 75 / 0.75)";

const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const lightness = matchMedia("(prefers-color-scheme: light)");
const sources = new Map(); // name → Source
let classes = []; // {name, colour, ink}
let span = 30; // media seconds that a chart shows

let [text, muted] = ["", ""]; // colours of the theme, for canvases

const $ = (selector) => document.querySelector(selector);

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** Have the browser keep a file. */
function save(blob, name) {
  const link = make("a");
  link.download = name;
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const percent = (share) => `${Math.round(100 * share)} %`;

function clock(time) {
  const seconds = Math.floor(time);
  const padded = (value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return (hours ? `${hours}:${padded(minutes)}` : minutes) + `:${padded(seconds % 60)}`;
}

/** Dark or light text, whichever is easier to read on a colour "#rrggbb" (WCAG's relative luminance). */
function inkOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => (parseInt(colour.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? DARK : LIGHT;
}

const placeOf = (label) => classes.findIndex(({ name }) => name === label); // -1 for "unsure"
const classOf = (label) => classes.find(({ name }) => name === label) ?? { name: label, colour: "#787878", ink: LIGHT };

/** A canvas with as many pixels as the screen gives it, drawn in CSS pixels. */
function prepare(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const density = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * density) || canvas.height !== Math.round(height * density)) {
    canvas.width = Math.round(width * density);
    canvas.height = Math.round(height * density);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(density, 0, 0, density, 0, 0);
  return { pen, width, height };
}

const overlap = (a, b) =>
  Math.max(0, Math.min(a.x + a.w, b.x + b.w) - Math.max(a.x, b.x)) *
  Math.max(0, Math.min(a.y + a.h, b.y + b.h) - Math.max(a.y, b.y));

/** Where the tags of boxes {x, y, w, h} go in a picture: at their box, each where it covers no other tag and least of the
 * faces; where faces crowd, some lines above or below. widths: of the tags, `line` high. */
function placeTags(boxes, widths, line, width, height) {
  const placed = [];
  boxes.forEach(({ x, y, w, h }, number) => {
    const tag = widths[number];
    const [left, right] = [x - 1, x + w - tag + 1];
    const places = [[left, y - line], [right, y - line], [left, y + h], [right, y + h], [left, y + h - line], [left, y]];
    for (let away = 1; away <= boxes.length; away += 1) {
      places.push([left, y - line * (1 + away)], [left, y + h + line * away], [left, y + line * away]);
    }
    let [best, least] = [null, Infinity];
    for (const [atX, atY] of places) {
      const spot = { x: Math.max(0, Math.min(atX, width - tag)), y: Math.max(0, Math.min(atY, height - line)), w: tag, h: line };
      const covered = (others) => others.reduce((sum, other) => sum + overlap(spot, other), 0);
      const cost = 1000 * covered(placed) + covered(boxes);
      if (cost < least) [best, least] = [spot, cost];
    }
    placed.push(best);
  });
  return placed;
}

/** One face: its reading, the chart of its last seconds, and a bar for every class. */
class Track {
  constructor(id) {
    this.points = []; // {time, label, warmup, poor, faint, sums: cumulative shares}, at most `span` seconds
    this.card = make("li", "track");
    const header = make("header");
    this.reading = make("span", "reading");
    this.note = make("span", "note");
    this.title = `Face ${id}`;
    header.append(make("h3", "", this.title), this.reading, this.note);
    this.chart = make("canvas", "chart");
    this.chart.setAttribute("role", "img");
    const shares = make("ul", "shares");
    this.rows = classes.map(({ name, colour }) => {
      const [row, value, bar] = [make("li"), make("span"), make("i")];
      bar.style.setProperty("--colour", colour);
      row.append(make("span", "", name), value, bar);
      shares.append(row);
      return { row, value, bar };
    });
    this.card.append(header, this.chart, shares);
  }

  get last() {
    return this.points[this.points.length - 1];
  }

  add({ time, label, warmup, poor, shares }) {
    let sum = 0;
    const sums = [0, ...shares.map((share) => (sum += share))];
    this.points.push({ time, label, warmup, poor, faint: warmup || poor, shares, sums });
  }

  /** Write what was read last. */
  tell() {
    const { label, warmup, poor, shares } = this.last;
    const [place, most] = [placeOf(label), Math.max(...shares)];
    this.reading.textContent = place < 0 ? label : `${label} ${percent(shares[place])}`;
    this.reading.style.setProperty("--colour", classOf(label).colour);
    this.card.toggleAttribute("data-poor", poor);
    const notes = [];
    if (place < 0) notes.push(`most likely ${classes[shares.indexOf(most)].name} ${percent(most)}`);
    if (warmup) notes.push("window is filling");
    if (poor) notes.push("poor: too small, blurred or turned");
    this.note.textContent = notes.join(" · ");
    this.chart.setAttribute(
      "aria-label",
      `Probabilities of ${this.title.toLowerCase()} over the last ${span} seconds, now ${this.reading.textContent}`,
    );
    this.rows.forEach(({ row, value, bar }, place) => {
      value.textContent = percent(shares[place]);
      bar.style.setProperty("--share", shares[place]);
      row.toggleAttribute("data-top", classes[place].name === label);
    });
  }

  /** Draw the stacked probabilities from `head - span` to `head`, media seconds. */
  draw(head) {
    const { pen, width, height } = prepare(this.chart);
    const floor = height - 18; // below it, the time axis
    const x = (time) => width - ((head - time) / span) * width;
    const y = (share) => floor * (1 - share);
    pen.clearRect(0, 0, width, height);
    for (const run of this.runs((before, after) => before.faint === after.faint)) {
      pen.globalAlpha = run[0].faint ? 0.45 : 1;
      classes.forEach(({ colour }, place) => {
        pen.beginPath();
        for (const { time, sums } of run) pen.lineTo(x(time), y(sums[place]));
        for (const { time, sums } of run.slice().reverse()) pen.lineTo(x(time), y(sums[place + 1]));
        pen.fillStyle = pen.strokeStyle = colour;
        pen.lineWidth = 0.6; // closes the hairline between two areas
        pen.fill();
        pen.stroke();
      });
    }
    pen.globalAlpha = 1;
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    const same = (before, after) => before.label === after.label && before.faint === after.faint;
    for (const run of this.runs(same)) this.name(pen, run, x, y, width);
    pen.fillStyle = muted;
    for (let mark = Math.ceil((head - span) / PERIOD) * PERIOD; mark <= head; mark += PERIOD) {
      if (mark < 0) continue;
      pen.fillRect(x(mark), floor, 1, 4);
      if (x(mark) > 14 && x(mark) < width - 14) pen.fillText(clock(mark), x(mark), height - 6);
    }
  }

  /** Write the label into the part of the chart where it holds, upright if it fits so, if there is room; what is unsure
   * is greyed over its whole height. */
  name(pen, run, x, y, width) {
    const place = placeOf(run[0].label);
    const [left, right] = [Math.max(0, x(run[0].time)), Math.min(width, x(run[run.length - 1].time))];
    if (place < 0) {
      pen.fillStyle = UNSURE;
      pen.fillRect(left, y(1), right - left, y(0) - y(1));
    }
    if (right - left < 18) return;
    const middle = (left + right) / 2;
    const { sums } = run.find(({ time }) => x(time) >= middle) ?? run[run.length - 1];
    const [top, bottom] = place < 0 ? [y(1), y(0)] : [y(sums[place + 1]), y(sums[place])];
    const length = pen.measureText(run[0].label).width + 12;
    const flat = right - left >= length && bottom - top >= 14;
    if (!flat && bottom - top < length) return;
    pen.save();
    pen.translate(middle, (top + bottom) / 2);
    if (!flat) pen.rotate(-Math.PI / 2);
    pen.fillStyle = place < 0 ? LIGHT : run[0].faint ? text : classes[place].ink;
    pen.fillText(run[0].label, 0, 0);
    pen.restore();
  }

  /** The points in runs: cut where the face was away and where neighbours are not `alike`; a run reaches to the next. */
  runs(alike) {
    const found = [];
    let run = [];
    for (const point of this.points) {
      const before = run[run.length - 1];
      if (before && point.time - before.time > GONE) [run] = [[], found.push(run)];
      else if (before && !alike(before, point)) {
        run.push(point);
        [run] = [[], found.push(run)];
      }
      run.push(point);
    }
    found.push(run);
    return found.filter(({ length }) => length > 1);
  }
}

/** One source: its picture with the faces marked, its state, and its tracks. */
class Source {
  constructor(name) {
    this.name = name;
    this.tracks = new Map(); // id → Track
    this.latest = 0; // media time up to which is known
    this.head = null; // media time at the charts' right edge; glides after `latest`
    this.speed = 1; // media seconds per second, for that
    this.card = make("article", "source");
    const header = make("header");
    const title = make("h2", "", name.split("/").filter(Boolean).pop() ?? name);
    title.title = name;
    this.chip = make("span", "chip");
    this.chip.setAttribute("role", "status");
    this.figures = make("span", "figures");
    this.keep = make("button", "", "Save picture");
    this.keep.type = "button";
    this.keep.disabled = true;
    this.keep.setAttribute("aria-label", `Save picture of ${name}`);
    this.keep.onclick = () => this.save();
    header.append(title, this.figures, this.chip, this.keep);
    this.error = make("p", "error");
    this.error.setAttribute("role", "alert");
    this.error.hidden = true;
    const pair = make("div", "pair");
    const video = make("figure", "video");
    this.canvas = make("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `Live picture of ${name}`);
    video.append(this.canvas);
    const side = make("div", "side");
    this.nobody = make("p", "nobody", "No face in view.");
    this.list = make("ul", "tracks");
    side.append(this.nobody, this.list);
    pair.append(video, side);
    this.card.append(header, this.error, pair);
    this.counted = { frames: 0, at: performance.now(), rate: null };
  }

  /** Take over the news of this source; `bitmap` is the decoded picture, if one came. */
  update(news, bitmap) {
    this.chip.dataset.state = this.card.dataset.state = news.state;
    this.chip.textContent = news.state;
    this.error.hidden = !news.error;
    this.error.textContent = news.error ?? "";
    for (const point of news.points) this.add(point);
    if (bitmap) {
      this.bitmap?.close();
      [this.bitmap, this.picture] = [bitmap, news.picture];
      this.keep.disabled = false;
      this.latest = Math.max(this.latest, news.picture.time);
      this.paint();
    }
    // The first news, or some after a pause: the chart is full at once and does not run through what was.
    if (this.head === null || this.latest - this.head > span) this.head = this.latest;
    this.count(news);
    this.sweep();
    for (const track of new Set(news.points.map((point) => this.tracks.get(point.track)))) track?.tell();
  }

  add(point) {
    if (point.time < this.latest - span) this.restart(); // it began again
    let track = this.tracks.get(point.track);
    if (!track) {
      if (this.tracks.size >= MOST_TRACKS) return;
      track = new Track(point.track);
      this.tracks.set(point.track, track);
      this.list.append(track.card);
    }
    track.add(point);
    this.latest = Math.max(this.latest, point.time);
  }

  restart() {
    for (const track of this.tracks.values()) track.card.remove();
    this.tracks.clear();
    [this.latest, this.head] = [0, null];
  }

  /** Frames and media seconds per second, over about a second. */
  count({ frames, dropped, state }) {
    const now = performance.now();
    const passed = (now - this.counted.at) / 1000;
    if (passed >= 1) {
      const rate = (frames - this.counted.frames) / passed;
      if (this.counted.latest !== undefined) this.speed = (this.latest - this.counted.latest) / passed;
      this.counted = { frames, at: now, rate: this.counted.frames ? rate : null, latest: this.latest };
    }
    const parts = [clock(this.latest)];
    if (this.counted.rate !== null && state === "running") parts.push(`${this.counted.rate.toFixed(this.counted.rate < 10 ? 1 : 0)} frames/s`);
    if (dropped) parts.push(`${dropped} dropped`);
    this.figures.textContent = parts.join(" · ");
  }

  /** Forget what has scrolled out, fade the faces that are gone. */
  sweep() {
    for (const [id, track] of this.tracks) {
      const away = this.latest - track.last.time;
      if (away > FORGET) {
        track.card.remove();
        this.tracks.delete(id);
        continue;
      }
      while (track.points.length > 1 && track.points[1].time < this.latest - span - 1) track.points.shift();
      track.card.toggleAttribute("data-gone", away > GONE);
      if (away > GONE) track.note.textContent = "left the picture";
    }
    this.nobody.hidden = this.tracks.size > 0;
  }

  /** The picture with its faces marked, drawn as sharp as the screen is. */
  paint() {
    const { time, width: wide, height: high, faces } = this.picture;
    this.canvas.style.aspectRatio = `${wide} / ${high}`;
    const { pen, width, height } = prepare(this.canvas);
    this.mark(pen, width, height);
    const seen = faces.map(({ track, label }) => `face ${track}${label === null ? "" : ` ${label}`}`).join(", ");
    this.canvas.setAttribute("aria-label", `Live picture of ${this.name} at ${clock(time)}: ${seen || "no face"}`);
  }

  /** Have the browser keep the picture as it is marked now, in the size in which it came. */
  save() {
    const canvas = new OffscreenCanvas(this.bitmap.width, this.bitmap.height);
    this.mark(canvas.getContext("2d"), canvas.width, canvas.height);
    const name = `${this.card.querySelector("h2").textContent}-${clock(this.picture.time)}`.replace(/[^\p{L}\p{N}._-]+/gu, "-");
    canvas.convertToBlob().then((blob) => save(blob, `${name}.png`));
  }

  mark(pen, width, height) {
    const { width: wide, faces } = this.picture;
    pen.drawImage(this.bitmap, 0, 0, width, height);
    const line = width < 480 ? 18 : 22; // px, height of a label
    pen.font = `600 ${0.6 * line}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    pen.textAlign = "left";
    const boxes = faces.map(({ box }) => box.map((value) => (value * width) / wide)).map(([x, y, w, h]) => ({ x, y, w, h }));
    const texts = faces.map(({ track, label, confidence, poor }) => {
      const read = label === null ? "" : placeOf(label) < 0 ? `  ${label}` : `  ${label} ${percent(confidence)}`;
      return `${track}${read}${poor ? " (poor)" : ""}`;
    });
    const tags = placeTags(boxes, texts.map((text) => pen.measureText(text).width + 12), line, width, height);
    const inks = faces.map(({ label }) => (label === null ? { colour: "#e7ebf0", ink: DARK } : classOf(label)));
    faces.forEach(({ warmup, poor }, number) => {
      const { x, y, w, h } = boxes[number];
      pen.strokeStyle = "rgb(0 0 0 / 0.45)"; // so that the box shows on any picture
      pen.lineWidth = 4;
      pen.strokeRect(x, y, w, h);
      pen.strokeStyle = inks[number].colour;
      pen.lineWidth = 2;
      pen.setLineDash(poor ? [2, 5] : warmup ? [6, 4] : []);
      pen.strokeRect(x, y, w, h);
      pen.setLineDash([]);
    });
    tags.forEach(({ x, y, w, h }, number) => {
      pen.fillStyle = inks[number].colour;
      pen.fillRect(x, y, w, h);
      pen.fillStyle = inks[number].ink;
      pen.fillText(texts[number], x + 6, y + h / 2 + 0.5);
    });
  }

  /** Move the charts on by `passed` seconds. */
  scroll(passed) {
    if (this.head === null) return;
    const before = this.head;
    // Half a second behind, so that there are always points to glide to; never ahead of what is known.
    const lag = Math.min(1, 0.5 * this.speed);
    const pull = (this.latest - lag - this.head) * Math.min(1, 2 * passed);
    this.head = stillness.matches ? this.latest : Math.min(this.latest, this.head + Math.max(0, this.speed * passed + pull));
    for (const track of this.tracks.values()) {
      if (this.head !== before || track.drawn !== track.last || track.width !== track.chart.clientWidth) {
        [track.drawn, track.width] = [track.last, track.chart.clientWidth];
        track.draw(this.head);
      }
    }
  }
}

function showStages(stages) {
  const longest = Math.max(...stages.map(({ p90 }) => p90));
  const rows = stages.map(({ stage, n, mean, p50, p90, p99, max }) => {
    const [row, name, cell, scale] = [make("tr"), make("th", "", stage), make("td"), make("div", "scale")];
    name.scope = "row";
    scale.style.setProperty("--median", p50 / longest);
    scale.style.setProperty("--late", p90 / longest);
    cell.append(scale);
    const figures = [p50, p90, p99, mean, max].map((value) => value.toFixed(value < 10 ? 2 : 1));
    row.append(name, cell, ...[...figures, n].map((text, place) => make("td", place > 2 ? "wide" : "", text)));
    return row;
  });
  $("#stages tbody").replaceChildren(...rows);
  $("#stages").hidden = stages.length === 0;
}

function greet({ classes: told, span: seconds, model }) {
  classes = told.map((entry) => ({ ...entry, ink: inkOn(entry.colour) }));
  span = seconds;
  for (const source of sources.values()) {
    source.bitmap?.close();
    source.card.remove();
  }
  sources.clear(); // the last `span` seconds come again
  over = false;
  $("#over").hidden = true;
  if (!model) return;
  $("#model").textContent = [model.name, model.method, model.provider, model.precision].join(" · ");
  $("#demo").hidden = !model.demo;
  $("#meaning").hidden = false;
  $("#meaning").textContent =
    `A label tells what a face showed over the last ${Number(model.window.toFixed(2))} seconds of video, not in one moment; ` +
    "unsure: no expression is probable enough; poor: the face is too small, blurred or turned to trust the label.";
}

async function takeRound(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const news = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  for (const entry of news.sources) {
    let bitmap = null;
    if (entry.picture) {
      bitmap = await createImageBitmap(new Blob([new Uint8Array(buffer, at, entry.picture.bytes)], { type: "image/jpeg" }));
      at += entry.picture.bytes;
    }
    let source = sources.get(entry.name);
    if (!source) {
      source = new Source(entry.name);
      sources.set(entry.name, source);
      $("#sources").append(source.card);
    }
    source.update(entry, bitmap);
  }
  $("#waiting").hidden = sources.size > 0;
  showStages(news.stages);
  if (news.over === null) return;
  over = true;
  tell("ended", "ended");
  $("#over").textContent = news.over ? `The run has ended: ${news.over}` : "The run has ended.";
  $("#over").hidden = false;
}

function tell(state, text) {
  const chip = $("#connection");
  chip.dataset.state = state;
  if (chip.textContent !== text) chip.textContent = text;
  document.body.toggleAttribute("data-live", state === "live");
}

let socket = null;
let paused = false;
let over = false; // the run ended, as we were told
let failures = 0;
let retry = 0; // the timer of the next try
let watchdog = 0;

function connect() {
  const own = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/watch`);
  socket = own;
  own.binaryType = "arraybuffer";
  let greeted = false;
  let work = Promise.resolve(); // one message after the other; the server lets at most two wait
  const listen = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => own.close(), SILENCE);
  };
  listen();
  own.onmessage = ({ data }) => {
    listen();
    const take = async () => {
      if (own !== socket) return; // a newer connection speaks
      if (typeof data === "string") {
        failures = 0;
        greeted = true;
        greet(JSON.parse(data));
        tell("live", "connected");
        return;
      }
      await takeRound(data);
      if (own.readyState === WebSocket.OPEN) own.send("seen");
    };
    work = work.then(take).catch((problem) => {
      console.error(problem);
      own.close(); // and try again: a round may fail for want of memory
    });
  };
  own.onclose = async () => {
    await work;
    if (own !== socket) return; // we left, or came back already
    socket = null;
    clearTimeout(watchdog);
    if (!greeted) askForToken();
    if (over) retry = setTimeout(connect, 5000); // quietly: another run may come, and need not
    else connectAt(Date.now() + 1000 * Math.min(10, 2 ** failures++ / 2));
  };
}

/** Where our token is not right any more, the page's form takes another. */
async function askForToken() {
  const { status } = await fetch(location.pathname, { method: "HEAD" }).catch(() => ({ status: 0 }));
  if (status === 401) location.reload();
}

/** Count down to the next try. */
function connectAt(due) {
  const left = Math.ceil((due - Date.now()) / 1000);
  if (left <= 0) return connect();
  tell("lost", `connection lost · trying again in ${left} s`);
  retry = setTimeout(() => connectAt(due), Math.min(1000, due - Date.now()));
}

/** Stop watching: nothing is encoded or sent for us. */
function leave(why) {
  clearTimeout(retry);
  clearTimeout(watchdog);
  const own = socket;
  socket = null;
  own?.close();
  if (!over) tell("paused", why);
}

// A page that nobody sees does not watch.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) leave("paused while hidden");
  else if (!socket && !paused) connect();
});

$("#pause").onclick = () => {
  paused = !paused;
  $("#pause").setAttribute("aria-pressed", paused);
  $("#pause").textContent = paused ? "Resume" : "Pause";
  document.body.toggleAttribute("data-still", paused);
  if (paused) leave("paused");
  else connect();
};

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  [text, muted] = [style.getPropertyValue("--text"), style.getPropertyValue("--muted")];
  for (const source of sources.values()) for (const track of source.tracks.values()) track.drawn = null;
}
lightness.addEventListener("change", readTheme);
readTheme();

addEventListener("resize", () => {
  for (const source of sources.values()) if (source.bitmap) source.paint();
});

let drawn = 0;
function animate(now) {
  requestAnimationFrame(animate);
  if (now - drawn < FRAME - 4) return;
  const passed = Math.min(0.25, (now - drawn) / 1000);
  drawn = now;
  for (const source of sources.values()) source.scroll(passed);
}

if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname); // a cookie serves now
connect();
requestAnimationFrame(animate);
