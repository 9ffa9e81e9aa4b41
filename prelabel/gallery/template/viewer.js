// Shows one image, large, with a list of its detections, in a modal dialog. The browser keeps the focus inside the
// dialog, closes it on Escape and then returns the focus.

const viewer = byId("viewer");
const stage = byId("stage");
const view = { position: -1, zoom: 1, frame: null, pinned: null, dragged: false };
const ZOOMS = [1, 1.5, 2, 3, 4, 6];
const MAX_ENLARGEMENT = 4;

function openViewer(position) {
  view.zoom = 1;
  show(position);
  viewer.showModal();
  layOut();
  stage.focus({ preventScroll: true });
  writeFragment();
}

function show(position) {
  view.position = position;
  const { card: cardNumber, visible } = matches[position];
  const card = cards[cardNumber];
  byId("viewer-name").replaceChildren(name(card.name, { dir: "auto" }));
  byId("viewer-place").textContent = `${number.format(position + 1)} of ${number.format(matches.length)}`;
  view.frame = el("div", { class: "frame" });
  const source = card.picture;
  view.frame.append(source ? el("img", { src: source, alt: `${card.name}: ${visible.length ? summary(visible) : "no detections"}`, draggable: "false" }) : placeholder(card));
  stage.replaceChildren(view.frame);
  byId("facts").replaceChildren(...facts(card));
  byId("viewer-score").hidden = Boolean(card.error);
  byId("previous").disabled = position === 0;
  byId("next").disabled = position === matches.length - 1;
  listDetections();
  for (const neighbor of [position + 1, position - 1]) {
    const other = matches[neighbor] && cards[matches[neighbor].card].picture;
    if (other) new Image().src = other;
  }
}

// Lists the detections, and draws their shapes over the image.
function listDetections() {
  const { card: cardNumber, visible } = matches[view.position];
  const card = cards[cardNumber];
  view.pinned = null;
  byId("detections").replaceChildren(...visible.map(entry));
  byId("hidden-detections").textContent = card.error ? card.error.text : hiddenText(card, visible);
  layOut();
}

// Called when the slider in the viewer has moved. The viewer keeps the images that it was opened with; the page is
// updated when the viewer is closed.
function rescore() {
  for (const match of matches) match.visible = visibleDetections(cards[match.card]);
  showScore();
  listDetections();
}

// How many detections of the card are not listed, and why.
function hiddenText(card, visible) {
  const listed = new Set(visible);
  const hidden = card.all.filter((detection) => !listed.has(detection));
  const below = hidden.filter((detection) => !passesScore(detection)).length;
  const filtered = hidden.length - below;
  return [visible.length ? "" : "No detections.",
    filtered ? `${number.format(filtered)} more ${filtered === 1 ? "is" : "are"} hidden by the filters.` : "",
    below ? `${number.format(below)} more ${below === 1 ? "is" : "are"} below the score; move the slider to see ${below === 1 ? "it" : "them"}.` : ""].filter(Boolean).join(" ");
}

function entry(detection) {
  const { name: className, color } = data.classes[detection[CLASS]];
  const enter = () => highlight(detection.index);
  const leave = () => highlight(view.pinned);
  const pin = () => togglePin(detection.index);
  return el("li", {}, el("button", { type: "button", class: "entry", "data-of": detection.index, "aria-pressed": "false",
    on: { pointerenter: enter, pointerleave: leave, focus: enter, blur: leave, click: pin } },
  el("span", { class: "swatch", style: { background: color } }),
  name(className, { class: "class-name", title: className }),
  el("span", { class: "track" }, el("i", { style: { width: `${detection[SCORE] * 100}%`, background: color } })),
  el("span", { class: "number" }, detection[SCORE].toFixed(2))));
}

function togglePin(detectionIndex) {
  view.pinned = view.pinned === detectionIndex ? null : detectionIndex;
  highlight(view.pinned);
}

// Pins the smallest box at a point of the window, and shows its entry in the list; none if there is no box.
function pinAt(x, y) {
  const { card: cardNumber, visible } = matches[view.position];
  const { left, top, width, height } = view.frame.getBoundingClientRect();
  const card = cards[cardNumber];
  const [px, py] = [((x - left) / width) * card.w, ((y - top) / height) * card.h];
  const area = (detection) => (detection[X2] - detection[X1]) * (detection[Y2] - detection[Y1]);
  const [smallest] = visible
    .filter((detection) => detection[X1] <= px && px <= detection[X2] && detection[Y1] <= py && py <= detection[Y2])
    .sort((a, b) => area(a) - area(b));
  togglePin(smallest ? smallest.index : null);
  byId("detections").querySelector('[aria-pressed="true"]')?.scrollIntoView({ block: "nearest" });
}

// Highlights one detection and fades the others; null shows all equally.
function highlight(detectionIndex) {
  viewer.classList.toggle("highlighting", detectionIndex !== null);
  for (const element of viewer.querySelectorAll("[data-of]")) {
    element.classList.toggle("lit", element.getAttribute("data-of") === String(detectionIndex));
    if (element.matches(".entry")) element.setAttribute("aria-pressed", String(element.getAttribute("data-of") === String(view.pinned)));
  }
}

function facts(card) {
  const lines = [
    ["Size", card.w ? `${card.w} × ${card.h} pixels` : null],
    ["File", card.bytes === undefined ? null : fileSize(card.bytes)],
    ["Rotated", card.browser ? `as browsers show the file (orientation ${card.browser}); the detector saw it with EXIF orientation ${card.exif ?? 1} applied` :
      card.exif ? `by EXIF orientation ${card.exif}` : null],
    ["Frames", card.frames ? `${card.frames}, the first is shown` : null],
    ["Failed", card.error ? `${card.error.type}${card.error.stage ? `, stage ${card.error.stage}` : ""}` : null],
    ["Image", card.missing ?? null],
    ["Image id", card.id ?? null],
    ["URL", card.uri],
  ];
  return lines.filter(([, text]) => text).map(([term, text]) => el("div", {}, el("dt", {}, term), el("dd", {}, name(text, { dir: "auto" }))));
}

function fileSize(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

// Fits the image into the stage, multiplies its size by the zoom, and draws the shapes over it. Small images are
// enlarged up to a limit.
function layOut() {
  if (!viewer.open || !view.frame) return;
  const { card: cardNumber, visible } = matches[view.position];
  const card = cards[cardNumber];
  const [width, height] = [card.w ?? 640, card.h ?? 480];
  // The size of the stage without scrollbars, which come and go with the zoom.
  const room = stage.getBoundingClientRect();
  const scale = Math.min(room.width / width, room.height / height, MAX_ENLARGEMENT) * view.zoom;
  view.frame.style.setProperty("width", `${width * scale}px`);
  view.frame.style.setProperty("height", `${height * scale}px`);
  stage.classList.toggle("zoomed", view.zoom > 1);
  byId("zoom-out").disabled = view.zoom === ZOOMS[0];
  byId("zoom-in").disabled = view.zoom === ZOOMS[ZOOMS.length - 1];
  draw(view.frame, card, visible, "large");
  highlight(view.pinned);
}

// Zooms by one step. The point x, y of the stage (0 to 1; by default the middle) stays where it is. Step 0 resets the
// zoom.
function zoom(step, x = 0.5, y = 0.5) {
  const before = ZOOMS.indexOf(view.zoom);
  const after = step === 0 ? 0 : Math.min(Math.max(before + step, 0), ZOOMS.length - 1);
  if (after === before) return;
  const [cx, cy] = [stage.clientWidth * x, stage.clientHeight * y];
  const { offsetLeft, offsetTop, offsetWidth, offsetHeight } = view.frame;
  const [px, py] = [(stage.scrollLeft + cx - offsetLeft) / offsetWidth, (stage.scrollTop + cy - offsetTop) / offsetHeight];
  view.zoom = ZOOMS[after];
  layOut();
  stage.scrollTo(view.frame.offsetLeft + px * view.frame.offsetWidth - cx, view.frame.offsetTop + py * view.frame.offsetHeight - cy);
}

function step(by) {
  const position = view.position + by;
  if (position < 0 || position >= matches.length) return;
  view.zoom = 1;
  show(position);
  writeFragment();
}

function viewerKeys(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (document.activeElement === byId("viewer-least")) return;
  const scrolls = view.zoom > 1 && document.activeElement === stage;
  const action = {
    ArrowLeft: scrolls ? undefined : () => step(-1), ArrowRight: scrolls ? undefined : () => step(1),
    Home: () => step(-view.position), End: () => step(matches.length - 1 - view.position),
    "+": () => zoom(1), "=": () => zoom(1), "-": () => zoom(-1), 0: () => zoom(0),
  }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function wireSwipes() {
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

// A mouse drags the zoomed image. Fingers scroll it without help.
function wireDrags() {
  let from = null;
  stage.addEventListener("pointerdown", (event) => {
    view.dragged = false;
    if (event.pointerType !== "mouse" || event.button !== 0 || view.zoom === 1) return;
    from = { x: event.clientX + stage.scrollLeft, y: event.clientY + stage.scrollTop, startX: event.clientX, startY: event.clientY };
  });
  stage.addEventListener("pointermove", (event) => {
    if (!from) return;
    if (Math.hypot(event.clientX - from.startX, event.clientY - from.startY) < 4 && !view.dragged) return;
    if (!view.dragged) stage.setPointerCapture(event.pointerId);
    view.dragged = true;
    stage.classList.add("dragged");
    stage.scrollTo(from.x - event.clientX, from.y - event.clientY);
  });
  for (const type of ["pointerup", "pointercancel"]) {
    stage.addEventListener(type, () => { from = null; stage.classList.remove("dragged"); });
  }
}

function viewerClosed() {
  if (viewer.open) return; // opened again before the browser reported that it was closed
  // Return to the image that was shown last, which need not be the one that was opened.
  const { card } = matches[view.position];
  refresh();
  const position = positionOf(card);
  if (position >= 0) focusCard(position);
}
