// One picture, large, with a list of what was found on it. A modal dialog: the browser keeps the focus inside, closes it
// on Escape and gives the focus back.

const viewer = byId("viewer");
const stage = byId("stage");
const view = { position: -1, zoom: 1, frame: null, pinned: null };
const ZOOMS = [1, 1.5, 2, 3, 4, 6];
const MOST_ENLARGED = 4;

function openViewer(position) {
  view.zoom = 1;
  show(position);
  viewer.showModal();
  place();
  stage.focus({ preventScroll: true });
}

function show(position) {
  view.position = position;
  view.pinned = null;
  const { number, shown } = chosen[position];
  const card = cards[number];
  byId("viewer-name").replaceChildren(name(card.name, { dir: "auto" }));
  byId("viewer-place").textContent = `${count.format(position + 1)} of ${count.format(chosen.length)}`;
  view.frame = el("div", { class: "frame" });
  const source = card.picture;
  view.frame.append(source ? el("img", { src: source, alt: `${card.name}: ${shown.length ? summary(shown) : "nothing found"}`, draggable: "false" }) : placeholder(card));
  stage.replaceChildren(view.frame);
  byId("found").replaceChildren(...shown.map((one) => entry(one)));
  byId("hidden-found").textContent = card.error ? card.error.text : unseen(card, shown);
  byId("facts").replaceChildren(...facts(card));
  byId("previous").disabled = position === 0;
  byId("next").disabled = position === chosen.length - 1;
  place();
  for (const neighbour of [position + 1, position - 1]) {
    const other = chosen[neighbour] && cards[chosen[neighbour].number].picture;
    if (other) new Image().src = other;
  }
}

// What the card has and the list does not.
function unseen(card, shown) {
  const listed = new Set(shown);
  const rest = card.all.filter((one) => !listed.has(one));
  const below = rest.filter((one) => one.below).length;
  const filtered = rest.length - below;
  return [shown.length ? "" : "Nothing found.",
    filtered ? `${counted(filtered, "more is", "more are")} hidden by the filters.` : "",
    below ? `${counted(below, "more lies", "more lie")} below the threshold; the slider shows them.` : ""].filter(Boolean).join(" ");
}

function entry(one) {
  const { name: label, colour } = data.classes[one[CLASS]];
  const point = () => highlight(one.place);
  const leave = () => highlight(view.pinned);
  const pin = () => { view.pinned = view.pinned === one.place ? null : one.place; highlight(view.pinned); };
  return el("li", {}, el("button", { type: "button", class: "entry", "data-of": one.place, "aria-pressed": "false",
    on: { pointerenter: point, pointerleave: leave, focus: point, blur: leave, click: pin } },
  el("span", { class: "swatch", style: { background: colour } }),
  name(label, { class: "class-name", title: label }),
  el("span", { class: "track" }, el("i", { style: { width: `${one[SCORE] * 100}%`, background: colour } })),
  el("span", { class: "number" }, one[SCORE].toFixed(2))));
}

// One detection alone; the others are pale. null: all.
function highlight(which) {
  viewer.classList.toggle("one", which !== null);
  for (const element of viewer.querySelectorAll("[data-of]")) {
    element.classList.toggle("lit", element.getAttribute("data-of") === String(which));
    if (element.matches(".entry")) element.setAttribute("aria-pressed", String(element.getAttribute("data-of") === String(view.pinned)));
  }
}

function facts(card) {
  const lines = [
    ["Size", card.w ? `${card.w} × ${card.h} pixels` : null],
    ["File", card.bytes === undefined ? null : size(card.bytes)],
    ["Turned", card.browser ? `as browsers show the file (orientation ${card.browser}); the detector saw it upright (${card.exif ?? 1})` :
      card.exif ? `upright, from EXIF orientation ${card.exif}` : null],
    ["Frames", card.frames ? `${card.frames}, the first is shown` : null],
    ["Failed", card.error ? `${card.error.type}${card.error.stage ? `, at ${card.error.stage}` : ""}` : null],
    ["Picture", card.missing ?? null],
    ["Id", card.id ?? null],
    ["Address", card.uri],
  ];
  return lines.filter(([, text]) => text).map(([term, text]) => el("div", {}, el("dt", {}, term), el("dd", {}, name(text, { dir: "auto" }))));
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

// The picture as large as it goes (small ones somewhat enlarged), times the zoom; then the shapes over it.
function place() {
  if (!viewer.open || !view.frame) return;
  const card = cards[chosen[view.position].number];
  const [width, height] = [card.w ?? 640, card.h ?? 480];
  // Of the stage without scrollbars, which come and go with the zoom.
  const room = stage.getBoundingClientRect();
  const scale = Math.min(room.width / width, room.height / height, MOST_ENLARGED) * view.zoom;
  view.frame.style.setProperty("width", `${width * scale}px`);
  view.frame.style.setProperty("height", `${height * scale}px`);
  stage.classList.toggle("zoomed", view.zoom > 1);
  byId("zoom-out").disabled = view.zoom === ZOOMS[0];
  byId("zoom-in").disabled = view.zoom === ZOOMS[ZOOMS.length - 1];
  draw(view.frame, card, chosen[view.position].shown, "large");
  highlight(view.pinned);
}

// Zooms by steps and keeps the point of the picture where it is; without a point, the middle.
function zoom(step, x = 0.5, y = 0.5) {
  const before = ZOOMS.indexOf(view.zoom);
  const after = step === 0 ? 0 : Math.min(Math.max(before + step, 0), ZOOMS.length - 1);
  if (after === before) return;
  const [cx, cy] = [stage.clientWidth * x, stage.clientHeight * y];
  const { offsetLeft, offsetTop, offsetWidth, offsetHeight } = view.frame;
  const [px, py] = [(stage.scrollLeft + cx - offsetLeft) / offsetWidth, (stage.scrollTop + cy - offsetTop) / offsetHeight];
  view.zoom = ZOOMS[after];
  place();
  stage.scrollTo(view.frame.offsetLeft + px * view.frame.offsetWidth - cx, view.frame.offsetTop + py * view.frame.offsetHeight - cy);
}

function step(by) {
  const position = view.position + by;
  if (position < 0 || position >= chosen.length) return;
  view.zoom = 1;
  show(position);
}

function viewerKeys(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const scrolls = view.zoom > 1 && document.activeElement === stage;
  const action = {
    ArrowLeft: scrolls ? undefined : () => step(-1), ArrowRight: scrolls ? undefined : () => step(1),
    Home: () => step(-view.position), End: () => step(chosen.length - 1 - view.position),
    "+": () => zoom(1), "=": () => zoom(1), "-": () => zoom(-1), 0: () => zoom(0),
  }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function swipes() {
  let start = null;
  stage.addEventListener("touchstart", (event) => {
    start = event.touches.length === 1 && view.zoom === 1 ? event.touches[0] : null;
  }, { passive: true });
  stage.addEventListener("touchend", (event) => {
    if (!start) return;
    const [dx, dy] = [event.changedTouches[0].clientX - start.clientX, event.changedTouches[0].clientY - start.clientY];
    if (Math.abs(dx) > 50 && Math.abs(dx) > 2 * Math.abs(dy)) step(dx < 0 ? 1 : -1);
    start = null;
  }, { passive: true });
}

function closedViewer() {
  // Back to the picture that was looked at last, which need not be the one that was opened.
  if (view.position >= 0 && view.position < chosen.length) focusCard(view.position);
}
