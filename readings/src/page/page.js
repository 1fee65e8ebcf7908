// The live page. Events bring the devices that have changed; each device is one row, which is updated in place. All text comes
// from outside and goes into the page as text only.
"use strict";

const SILENT = 8_000; // without an event for so long, the connection is slow: one comes every 5 s
const LOST = 15_000; // and then it is lost
const BEHIND = 3_000; // how late events may be
const SORT_AGAIN = 2_000; // rows do not change places more often than this
const [SHORTEST, HISTORY] = [60_000, 600_000]; // what a line shows
const [WIDTH, HEIGHT] = [160, 32];
const NEW_ROWS = 60; // in one frame

const find = (selector) => document.querySelector(selector);
const [body, template, live] = [find("tbody"), find("template"), find("#counts")];
const rows = new Map(); // by the number that the server gives a device
const fresh = []; // rows that are not in the page yet
const wanted = { text: "", state: "", by: "device", down: false };
const clock = { offset: 0, known: false, newest: 0, behind: 0 }; // the server's time is performance.now() + offset
let goneFor = Infinity;
let frame = 0;
let counted = "";
let order = { wrong: false, since: 0 };

const now = () => performance.now() + clock.offset;
const say = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

// ---- What the server says

function take(event) {
  if (event.begin) {
    goneFor = event.begin.goneFor;
    for (const row of rows.values()) row.seen = false;
  }
  for (const device of event.devices) update(device);
  if (event.complete) {
    for (const row of rows.values()) if (!row.seen) remove(row);
  }
  find("#note").hidden = !event.note;
  say(find("#note"), event.note);
  showProblems(event.brokers);
  draw();
}

function update(device) {
  let row = rows.get(device.id);
  if (!row) {
    row = { points: [], visible: false, seen: false };
    rows.set(device.id, row);
    fresh.push(row);
  }
  // The first time after a new connection, the history is whole.
  const points = row.seen ? row.points : [];
  for (const point of device.points) {
    const [at, number] = points[points.length - 1] ?? [];
    if (number != null && point[1] !== null && Math.floor(at / 1000) === Math.floor(point[0] / 1000)) points.pop();
    points.push(point);
  }
  const old = points.findIndex((point) => point[0] > now() - HISTORY);
  // Another server may know another device by this number.
  row.moves ||= !row.tr || wanted.by !== "device" || row.device.device !== device.device;
  Object.assign(row, { device, points: old > 0 ? points.slice(old) : points, seen: true, changed: true });
  row.words = [device.device, device.broker, device.value, device.why].join("\n").toLowerCase();
  order.wrong ||= row.moves;
}

function remove(row) {
  rows.delete(row.device.id);
  if (row.tr) {
    seeing.unobserve(row.tr);
    row.tr.remove();
  }
  row.removed = true;
}

function showProblems({ known, answering, problems }) {
  const list = find("#problems");
  list.hidden = problems.length === 0;
  if (list.dataset.is !== problems.join("\n")) {
    list.dataset.is = problems.join("\n");
    list.replaceChildren(...problems.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
  }
  const none = known === 0 ? "There is no broker yet." : answering === 0 ? "No broker answers yet." : "No device has been read yet.";
  say(find("#empty"), rows.size === 0 ? none : "No device is like that.");
}

// ---- Rows

const seeing = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.row.visible = isIntersecting;
    if (isIntersecting) drawHistory(target.row);
  }
}, { rootMargin: "200px" });

function build(row) {
  const tr = template.content.firstElementChild.cloneNode(true);
  const [device, state, value, history] = tr.children;
  Object.assign(row, {
    tr,
    name: device.children[0], broker: device.children[1],
    state: state.children[0], why: state.children[1],
    value: value.children[0], age: value.children[1],
    path: history.querySelector("path"), max: history.querySelectorAll("span")[0], min: history.querySelectorAll("span")[1],
  });
  tr.row = row;
  seeing.observe(tr);
}

function fill(row) {
  const { device } = row;
  row.changed = false;
  const kind = typeof device.number === "number" || device.value === undefined ? "" : " text";
  if (row.tr.className !== device.state + kind) row.tr.className = device.state + kind;
  say(row.name, device.device);
  say(row.broker, device.broker);
  say(row.state, device.state);
  const since = device.state === "reading" ? "" : `since ${time(device.since)}`;
  say(row.why, device.why ? `${since}: ${device.why}` : since);
  row.why.title = device.why ?? "";
  say(row.value, device.value === undefined ? "no value yet" : kind ? device.value || "(empty)" : short(device.number));
  row.value.title = device.value ?? "";
  fillAge(row);
  if (row.visible) drawHistory(row);
}

function fillAge(row) {
  say(row.age, row.device.at === undefined ? "" : `${age(now() - row.device.at)} ago`);
}

function drawHistory(row) {
  const numbers = row.points.filter((point) => point[1] !== null).map((point) => point[1]);
  // As long as it is, so that a short history shows something too.
  const span = Math.min(HISTORY, Math.max(SHORTEST, now() - (row.points[0]?.[0] ?? 0)));
  const [min, max] = [numbers.reduce((a, b) => Math.min(a, b), Infinity), numbers.reduce((a, b) => Math.max(a, b), -Infinity)];
  let [path, pen] = ["", "M"];
  for (const [at, number] of row.points) {
    if (number === null) {
      pen = "M";
      continue;
    }
    const x = Math.max(0, Math.min(1, 1 - (now() - at) / span)) * WIDTH;
    // Halves first: a difference of two huge numbers is not finite.
    const y = max > min ? HEIGHT - ((number / 2 - min / 2) / (max / 2 - min / 2)) * HEIGHT : HEIGHT / 2;
    path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    // A point alone is a dot.
    if (pen === "M") path += "h0";
    pen = "L";
  }
  row.path.setAttribute("d", path);
  say(row.max, numbers.length ? `max ${short(max)}` : "");
  say(row.min, numbers.length ? `min ${short(min)}` : "");
}

// ---- The order and the choice of rows

const RANK = { failing: 0, gone: 1, reading: 2 };
const BY = {
  device: () => 0,
  state: (a, b) => RANK[a.device.state] - RANK[b.device.state],
  // Numbers before texts, and those before nothing.
  value: (a, b) => (a.device.number ?? Infinity) - (b.device.number ?? Infinity) || compare(a.device.value ?? "", b.device.value ?? ""),
};
const compare = new Intl.Collator(undefined, { numeric: true }).compare;

/** Puts all rows into their order, or only those that have changed: the others are in it already. */
function sort(all) {
  order = { wrong: false, since: performance.now() };
  const direction = wanted.down ? -1 : 1;
  const same = (a, b) => compare(a.device.device, b.device.device) || a.device.id - b.device.id;
  const sorted = [...rows.values()].filter((row) => row.tr).sort((a, b) => direction * (BY[wanted.by](a, b) || same(a, b)));
  if (all) {
    body.append(...sorted.map((row) => row.tr));
  } else {
    for (const row of sorted) if (row.moves) row.tr.remove();
    let place = body.firstElementChild;
    for (const { tr } of sorted) {
      if (tr === place) place = place.nextElementSibling;
      else body.insertBefore(tr, place);
    }
  }
  for (const row of sorted) row.moves = false;
}

function choose() {
  const words = wanted.text.toLowerCase().split(/\s+/);
  const counts = { reading: 0, failing: 0, gone: 0 };
  let shown = 0;
  for (const row of rows.values()) {
    counts[row.device.state] += 1;
    const fits = (!wanted.state || row.device.state === wanted.state) && words.every((word) => row.words.includes(word));
    if (row.tr && row.tr.hidden === fits) row.tr.hidden = !fits;
    shown += fits;
  }
  find("#empty").hidden = shown > 0;
  for (const button of find("#states").children) {
    const { state } = button.dataset;
    const count = state ? counts[state] : rows.size;
    say(button.firstElementChild, String(count));
    button.classList.toggle("any", count > 0);
  }
  const { reading, failing, gone } = counts;
  counted = `${reading} reading, ${failing} failing, ${gone} gone; ${shown} shown`;
}

function draw() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    for (const row of fresh.splice(0, NEW_ROWS)) if (!row.removed) build(row);
    for (const row of rows.values()) if (row.tr && row.changed) fill(row);
    if (order.wrong && (wanted.by === "device" || performance.now() - order.since > SORT_AGAIN)) sort(false);
    choose();
    if (fresh.length > 0) {
      order.wrong = true;
      draw();
    }
  });
}

// ---- The connection

let source;
let again = 0;

function connect() {
  again = 0;
  source?.close();
  source = new EventSource("api/events");
  source.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    const time = performance.now();
    const offset = event.now - time;
    // The quickest event so far tells best what the server's time is. But no two clocks run alike.
    const best = clock.offset - (time - clock.newest) / 2_000;
    clock.offset = clock.known && !event.begin ? Math.max(best, offset) : offset;
    Object.assign(clock, { known: true, newest: time, behind: clock.offset - offset });
    take(event);
    showConnection();
  };
  source.onerror = () => {
    clock.failed = true;
    // Where it gives up, we do not.
    if (source.readyState === EventSource.CLOSED) again ||= setTimeout(connect, 1_000 + Math.random() * 2_000);
    showConnection();
  };
  clock.asked = performance.now();
  clock.failed = false;
}

function showConnection() {
  const connection = find("#connection");
  const silent = performance.now() - clock.newest;
  const lost = clock.failed && source.readyState !== EventSource.OPEN;
  const [is, text] = !clock.known && !lost ? ["wait", "connecting"]
    : lost || silent > LOST ? ["lost", clock.known ? `connection lost ${age(silent)} ago, trying again` : "no connection, trying again"]
    : silent > SILENT ? ["lost", `slow connection, nothing for ${age(silent)}`]
    : clock.behind > BEHIND ? ["lost", `slow connection, ${age(clock.behind)} behind`]
    : ["live", "live"];
  connection.dataset.is = is;
  say(connection, text);
}

setInterval(() => {
  const time = performance.now();
  if (time - Math.max(clock.newest, clock.asked) > LOST && !again) connect();
  showConnection();
  for (const row of rows.values()) {
    if (row.device.state === "gone" && row.device.since + goneFor < now()) remove(row);
    else if (row.tr) fillAge(row);
  }
  draw();
}, 1_000);
setInterval(() => {
  // Not as often as they change, since it is read aloud.
  if (clock.known) say(live, find("#connection").dataset.is === "live" ? counted : find("#connection").textContent);
  for (const row of rows.values()) if (row.visible) drawHistory(row);
}, 10_000);

// ---- What a person does

find("#filter").addEventListener("input", ({ target }) => {
  wanted.text = target.value.trim();
  draw();
});
for (const button of find("#states").children) {
  button.addEventListener("click", () => {
    wanted.state = button.dataset.state;
    for (const other of find("#states").children) other.setAttribute("aria-pressed", String(other === button));
    draw();
  });
}
for (const button of document.querySelectorAll("[data-by]")) {
  button.addEventListener("click", () => {
    const { by } = button.dataset;
    Object.assign(wanted, { down: wanted.by === by && !wanted.down, by });
    for (const other of document.querySelectorAll("th")) other.removeAttribute("aria-sort");
    button.parentElement.setAttribute("aria-sort", wanted.down ? "descending" : "ascending");
    sort(true);
  });
}

// ---- Words

/** A number with at most six digits that count. */
function short(number) {
  return String(Number(number.toPrecision(6)));
}

/** Milliseconds in the largest unit that fits. */
function age(span) {
  const seconds = Math.max(0, Math.round(span / 1000));
  if (seconds < 100) return `${seconds} s`;
  return seconds < 6_000 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

/** The time of day, and the day where it is another one. */
function time(at) {
  const [date, today] = [new Date(at), new Date()];
  return date.toDateString() === today.toDateString() ? date.toLocaleTimeString() : date.toLocaleString();
}

connect();
