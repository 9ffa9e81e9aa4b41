// Boxes, masks and labels over a picture: SVG in the image's own pixels for the shapes, HTML for the labels, which stay
// of one size whatever the picture's.

const TAG = { small: { font: "600 11px system-ui, sans-serif", height: 16, pad: 8 }, large: { font: "600 12px system-ui, sans-serif", height: 18, pad: 10 } };

// Labels from which on those of slim boxes are left out.
const CROWD = 5;

// Draws anew what the controls say. `frame` is an element with exactly the picture's place on the page.
function draw(frame, card, shown, size) {
  clear(frame);
  if (!shown.length || !card.w) return;
  const shapes = svg("svg", { class: "shapes", viewBox: `0 0 ${card.w} ${card.h}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const boxes = shown.filter((one) => one.length > 2);
  // The best last, on top.
  for (const one of [...boxes].reverse()) shapes.append(shape(one));
  frame.append(shapes);
  if (state.labels) frame.append(...tags(frame, card, boxes, TAG[size]));
}

function clear(frame) {
  frame.querySelectorAll(".shapes, .tag").forEach((element) => element.remove());
}

function shape(one) {
  const { colour } = data.classes[one[CLASS]];
  const group = svg("g", { class: "shape", "data-of": one.place });
  if (state.masks && one[OUTLINE]) {
    group.append(svg("path", { class: "mask", d: one[OUTLINE], fill: colour, stroke: colour }));
  }
  if (state.boxes) {
    const box = { x: one[X1], y: one[Y1], width: one[X2] - one[X1], height: one[Y2] - one[Y1] };
    group.append(svg("rect", { class: "halo", ...box }), svg("rect", { class: "box", ...box, stroke: colour }));
  }
  return group;
}

// Labels, best first; one that finds no free place is left out: the opened picture lists them all.
function tags(frame, card, boxes, style) {
  const { clientWidth: width, clientHeight: height } = frame;
  const [sx, sy] = [width / card.w, height / card.h];
  const taken = [];
  const made = [];
  for (const one of boxes) {
    const { name: label, colour, ink } = data.classes[one[CLASS]];
    const text = `${label.length > 24 ? label.slice(0, 23) + "…" : label} ${one[SCORE].toFixed(2)}`;
    const wide = textWidth(text, style.font) + style.pad;
    const place = freePlace(one, sx, sy, wide, style.height, width, height, taken);
    if (!place) continue;
    taken.push(place);
    const at = { left: `${(place.x / width) * 100}%`, top: `${(place.y / height) * 100}%`, background: colour, color: ink };
    made.push(el("span", { class: "tag", "data-of": one.place, "aria-hidden": "true", style: at }, text));
  }
  return made;
}

// Above the box, inside at its top, or below it; inside the picture and off the other labels.
function freePlace(one, sx, sy, wide, high, width, height, taken) {
  const left = Math.max(0, Math.min(one[X1] * sx - 1, width - wide));
  const right = Math.max(0, Math.min(one[X2] * sx + 1 - wide, width - wide));
  const heights = [one[Y1] * sy - high, one[Y1] * sy, one[Y2] * sy];
  // Among many, labels much wider than what they name would hide the rest.
  const lean = taken.length >= CROWD && wide > 2 * (one[X2] - one[X1]) * sx;
  if (wide > width || lean) return null;
  for (const y of heights) {
    for (const x of [left, right]) {
      const fitting = y >= 0 && y + high <= height;
      const free = taken.every((t) => x + wide <= t.x || t.x + t.wide <= x || y + high <= t.y || t.y + t.high <= y);
      if (fitting && free) return { x, y, wide, high };
    }
  }
  return null;
}
