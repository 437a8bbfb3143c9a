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

const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const sources = new Map(); // name → Source
let classes = []; // {name, colour, ink}
let span = 30; // media seconds that a chart shows

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
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

/** One face: its reading, the chart of its last seconds, and a bar for every class. */
class Track {
  constructor(id) {
    this.points = []; // {time, label, warmup, sums: cumulative shares}, at most `span` seconds
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

  add({ time, label, warmup, shares }) {
    let sum = 0;
    this.points.push({ time, label, warmup, shares, sums: [0, ...shares.map((share) => (sum += share))] });
  }

  /** Write what was read last. */
  tell() {
    const { label, warmup, shares } = this.last;
    this.reading.textContent = `${label} ${percent(shares[classes.findIndex(({ name }) => name === label)] ?? Math.max(...shares))}`;
    this.reading.style.setProperty("--colour", classOf(label).colour);
    this.note.textContent = warmup ? "window is filling" : "";
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
    for (const run of this.runs((before, after) => before.warmup === after.warmup)) {
      pen.globalAlpha = run[0].warmup ? 0.45 : 1;
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
    const same = (before, after) => before.label === after.label && before.warmup === after.warmup;
    for (const run of this.runs(same)) this.name(pen, run, x, y, width);
    pen.fillStyle = "#9aa6b3";
    for (let mark = Math.ceil((head - span) / PERIOD) * PERIOD; mark <= head; mark += PERIOD) {
      if (mark < 0) continue;
      pen.fillRect(x(mark), floor, 1, 4);
      if (x(mark) > 14 && x(mark) < width - 14) pen.fillText(clock(mark), x(mark), height - 6);
    }
  }

  /** Write the label into the part of the chart where it holds, upright if it fits so, if there is room. */
  name(pen, run, x, y, width) {
    const place = classes.findIndex(({ name }) => name === run[0].label);
    const [left, right] = [Math.max(0, x(run[0].time)), Math.min(width, x(run[run.length - 1].time))];
    if (place < 0 || right - left < 18) return;
    const middle = (left + right) / 2;
    const { sums } = run.find(({ time }) => x(time) >= middle) ?? run[run.length - 1];
    const [top, bottom] = [y(sums[place + 1]), y(sums[place])];
    const length = pen.measureText(run[0].label).width + 12;
    const flat = right - left >= length && bottom - top >= 14;
    if (!flat && bottom - top < length) return;
    pen.save();
    pen.translate(middle, (top + bottom) / 2);
    if (!flat) pen.rotate(-Math.PI / 2);
    pen.fillStyle = run[0].warmup ? LIGHT : classes[place].ink;
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
    this.figures = make("span", "figures");
    header.append(title, this.figures, this.chip);
    this.error = make("p", "error");
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
      this.advance(news.picture.time);
      this.paint();
    }
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
    this.advance(point.time);
  }

  restart() {
    for (const track of this.tracks.values()) track.card.remove();
    this.tracks.clear();
    [this.latest, this.head] = [0, null];
  }

  advance(time) {
    this.latest = Math.max(this.latest, time);
    if (this.head === null || this.latest - this.head > span) this.head = this.latest; // the first news, or after a pause
  }

  /** Frames and media seconds per second, over about a second. */
  count({ frames, dropped }) {
    const now = performance.now();
    const passed = (now - this.counted.at) / 1000;
    if (passed >= 1) {
      const rate = (frames - this.counted.frames) / passed;
      if (this.counted.latest !== undefined) this.speed = (this.latest - this.counted.latest) / passed;
      this.counted = { frames, at: now, rate: this.counted.frames ? rate : null, latest: this.latest };
    }
    const parts = [clock(this.latest)];
    if (this.counted.rate !== null) parts.push(`${this.counted.rate.toFixed(this.counted.rate < 10 ? 1 : 0)} frames/s`);
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

  /** The picture, the boxes and their labels, drawn as sharp as the screen is. */
  paint() {
    const { time, width: wide, height: high, faces } = this.picture;
    this.canvas.style.aspectRatio = `${wide} / ${high}`;
    const { pen, width, height } = prepare(this.canvas);
    pen.drawImage(this.bitmap, 0, 0, width, height);
    const line = width < 480 ? 18 : 22; // px, height of a label
    pen.font = `600 ${0.6 * line}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    pen.textAlign = "left";
    for (const face of faces) {
      const [x, y, w, h] = face.box.map((value) => (value * width) / wide);
      const { colour, ink } = face.label === null ? { colour: "#e7ebf0", ink: DARK } : classOf(face.label);
      const text = `${face.track}` + (face.label === null ? "" : `  ${face.label} ${percent(face.confidence)}`);
      pen.strokeStyle = "rgb(0 0 0 / 0.45)"; // so that the box shows on any picture
      pen.lineWidth = 4;
      pen.strokeRect(x, y, w, h);
      pen.strokeStyle = colour;
      pen.lineWidth = 2;
      pen.setLineDash(face.warmup ? [6, 4] : []);
      pen.strokeRect(x, y, w, h);
      pen.setLineDash([]);
      const tag = pen.measureText(text).width + 12;
      const left = Math.max(0, Math.min(x - 1, width - tag));
      const top = y >= line ? y - line : Math.min(y + h, height - line);
      pen.fillStyle = colour;
      pen.fillRect(left, top, tag, line);
      pen.fillStyle = ink;
      pen.fillText(text, left + 6, top + line / 2 + 0.5);
    }
    const seen = faces.map(({ track, label }) => `face ${track}${label === null ? "" : ` ${label}`}`).join(", ");
    this.canvas.setAttribute("aria-label", `Live picture of ${this.name} at ${clock(time)}: ${seen || "no face"}`);
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
  document.querySelector("#stages tbody").replaceChildren(...rows);
  document.querySelector("#stages").hidden = stages.length === 0;
}

function greet({ classes: told, span: seconds }) {
  classes = told.map((entry) => ({ ...entry, ink: inkOn(entry.colour) }));
  span = seconds;
  for (const source of sources.values()) {
    source.bitmap?.close();
    source.card.remove();
  }
  sources.clear(); // the last `span` seconds come again
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
      document.querySelector("#sources").append(source.card);
    }
    source.update(entry, bitmap);
  }
  document.querySelector("#waiting").hidden = sources.size > 0;
  showStages(news.stages);
}

function tell(state, text) {
  const chip = document.querySelector("#connection");
  chip.dataset.state = state;
  if (chip.textContent !== text) chip.textContent = text;
  document.body.toggleAttribute("data-live", state === "live");
}

let socket = null;
let failures = 0;
let retry = 0; // the timer of the next try
let watchdog = 0;

function connect() {
  const own = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/watch`);
  socket = own;
  own.binaryType = "arraybuffer";
  let work = Promise.resolve(); // one message after the other; the server lets at most two wait
  const listen = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => own.close(), SILENCE);
  };
  listen();
  own.onmessage = ({ data }) => {
    listen();
    work = work.then(async () => {
      if (own !== socket) return; // a newer connection speaks
      if (typeof data === "string") {
        failures = 0;
        greet(JSON.parse(data));
        tell("live", "live");
        return;
      }
      await takeRound(data);
      if (own.readyState === WebSocket.OPEN) own.send("seen");
    });
  };
  own.onclose = () => {
    if (own !== socket) return; // we left, or came back already
    socket = null;
    clearTimeout(watchdog);
    const wait = Math.min(10, 2 ** failures++ / 2);
    connectAt(Date.now() + 1000 * wait);
  };
}

/** Count down to the next try. */
function connectAt(due) {
  const left = Math.ceil((due - Date.now()) / 1000);
  if (left <= 0) return connect();
  tell("ended", `ended · trying again in ${left} s`);
  retry = setTimeout(() => connectAt(due), Math.min(1000, due - Date.now()));
}

// A page that nobody sees does not watch: nothing is encoded or sent for it.
document.addEventListener("visibilitychange", () => {
  clearTimeout(retry);
  if (document.hidden) {
    const own = socket;
    socket = null;
    own?.close();
    clearTimeout(watchdog);
    tell("paused", "paused while hidden");
  } else if (!socket) connect();
});

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
