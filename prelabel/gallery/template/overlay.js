// Draws boxes, masks, keypoints and labels over an image. Shapes are SVG in pixels of the image; labels are HTML, because their
// size does not depend on the scale of the image.

const LABEL_STYLES = { small: { font: "600 11px system-ui, sans-serif", height: 16, pad: 8 }, large: { font: "600 12px system-ui, sans-serif", height: 18, pad: 10 } };

// After this many labels, the labels of narrow boxes are omitted.
const CROWD = 5;

// Redraws the overlay as the controls are set. `frame` is an element that covers exactly the image.
function draw(frame, card, visible, size) {
  clear(frame);
  if (!visible.length || !card.w) return;
  const shapes = svg("svg", { class: "shapes", viewBox: `0 0 ${card.w} ${card.h}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const boxes = visible.filter((detection) => detection.length > 2);
  // The highest score is drawn last, on top.
  for (const detection of [...boxes].reverse()) shapes.append(shape(detection));
  frame.append(shapes);
  if (state.labels) frame.append(...labels(frame, card, boxes, LABEL_STYLES[size]));
}

function clear(frame) {
  frame.querySelectorAll(".shapes, .tag").forEach((element) => element.remove());
}

function shape(detection) {
  const { color } = data.classes[detection[CLASS]];
  const group = svg("g", { class: "shape", "data-of": detection.index });
  if (state.masks && detection[CONTOUR]) {
    group.append(svg("path", { class: "mask", d: detection[CONTOUR], fill: color, stroke: color }));
  }
  if (state.boxes) {
    const box = { x: detection[X1], y: detection[Y1], width: detection[X2] - detection[X1], height: detection[Y2] - detection[Y1] };
    group.append(svg("rect", { class: "halo", ...box }), svg("rect", { class: "box", ...box, stroke: color }));
  }
  if (state.keypoints && detection[KEYPOINTS]) group.append(...skeleton(detection[KEYPOINTS], color));
  return group;
}

// The shown keypoints, [number, x, y] each, and the lines of the skeleton between them. A point is a line without
// length and with round ends, so its size does not depend on the scale of the image.
function skeleton(keypoints, color) {
  const places = new Map(keypoints.map(([keypoint, x, y]) => [keypoint, `${x} ${y}`]));
  const edges = data.keypoints.edges.filter(([from, to]) => places.has(from) && places.has(to));
  const lines = edges.map(([from, to]) => `M${places.get(from)}L${places.get(to)}`).join("");
  const points = [...places.values()].map((place) => `M${place}h0`).join("");
  return [["halo", lines], ["edge", lines], ["ring", points], ["keypoint", points]]
    .filter(([, path]) => path)
    .map(([kind, path]) => svg("path", { class: kind, d: path, stroke: ["halo", "ring"].includes(kind) ? undefined : color }));
}

// Labels, highest score first. A label without a free place is omitted; the opened image lists all detections.
function labels(frame, card, boxes, style) {
  const { clientWidth: width, clientHeight: height } = frame;
  const [scaleX, scaleY] = [width / card.w, height / card.h];
  const taken = [];
  const elements = [];
  for (const detection of boxes) {
    const { name: className, color, ink } = data.classes[detection[CLASS]];
    const text = `${className.length > 24 ? className.slice(0, 23) + "…" : className} ${detection[SCORE].toFixed(2)}`;
    const labelWidth = textWidth(text, style.font) + style.pad;
    const place = freePlace(detection, scaleX, scaleY, labelWidth, style.height, width, height, taken);
    if (!place) continue;
    taken.push(place);
    const position = { left: `${(place.x / width) * 100}%`, top: `${(place.y / height) * 100}%`, background: color, color: ink };
    elements.push(el("span", { class: "tag", "data-of": detection.index, "aria-hidden": "true", style: position }, text));
  }
  return elements;
}

// The place of a label: above the box, inside it at the top, or below it; within the image, without covering other
// labels. Null if there is none.
function freePlace(detection, scaleX, scaleY, labelWidth, labelHeight, width, height, taken) {
  const left = Math.max(0, Math.min(detection[X1] * scaleX - 1, width - labelWidth));
  const right = Math.max(0, Math.min(detection[X2] * scaleX + 1 - labelWidth, width - labelWidth));
  const tops = [detection[Y1] * scaleY - labelHeight, detection[Y1] * scaleY, detection[Y2] * scaleY];
  // Among many labels, a label that is much wider than its box would hide others.
  const isTooWide = taken.length >= CROWD && labelWidth > 2 * (detection[X2] - detection[X1]) * scaleX;
  if (labelWidth > width || isTooWide) return null;
  for (const y of tops) {
    for (const x of [left, right]) {
      const isInside = y >= 0 && y + labelHeight <= height;
      const isFree = taken.every((other) => x + labelWidth <= other.x || other.x + other.labelWidth <= x
        || y + labelHeight <= other.y || other.y + other.labelHeight <= y);
      if (isInside && isFree) return { x, y, labelWidth, labelHeight };
    }
  }
  return null;
}
