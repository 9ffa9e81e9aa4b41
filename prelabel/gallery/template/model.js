// The data, the state of the controls, and the images that match them. Nothing here changes the page.

const data = JSON.parse(document.getElementById("data").textContent);
const cards = data.cards;
const [CLASS, SCORE, X1, Y1, X2, Y2, CONTOUR, KEYPOINTS] = [0, 1, 2, 3, 4, 5, 6, 7];

// The slider starts at the threshold of the options. In this position it shows exactly what the options keep, even if a
// class has its own threshold. Its lowest position shows everything that the run stores.
const hundredths = (score) => Math.floor(score * 100 + 1e-6) / 100;
const [START, LOWEST] = [data.run.start / 100, data.run.lowest / 100];

// `index` is the position of a detection in its card. Its shape, its label and its list entry refer to it by this
// index.
for (const card of cards) {
  for (const detection of card.below ?? []) detection.below = true;
  card.all = card.below ? [...card.detections, ...card.below].sort((a, b) => b[SCORE] - a[SCORE]) : card.detections ?? [];
  card.all.forEach((detection, index) => { detection.index = index; });
}

const NO_FILTERS = { query: "", classes: new Set(), status: "all", score: START };
const state = { ...NO_FILTERS, sort: "run", boxes: true, masks: true, keypoints: true, labels: true };

const collator = new Intl.Collator(undefined, { numeric: true });
const number = new Intl.NumberFormat();

function counted(value, singular, plural) {
  return `${number.format(value)} ${value === 1 ? singular : plural}`;
}

function percent(share) {
  return `${Math.round(share * 100)}`;
}

// Whether the slider shows a detection. In its first position, the thresholds of the options decide.
function passesScore(detection, score = state.score) {
  return detection.below ? score < START && detection[SCORE] >= score : score <= START || detection[SCORE] >= score;
}

// What totals are compared with ("3 of 5"): the detections that the options keep, or more if the slider shows more.
const baseScore = () => Math.min(state.score, START);

// The value of `steps` ([position of the slider, value], ascending) at a score.
function valueAt(steps, score) {
  const position = Math.round(score * 100);
  return steps.findLast(([from]) => from <= position)[1];
}

const classCount = (classNumber, score = state.score) => valueAt(data.classes[classNumber].counts, score);

// "3 of 5", or "5" if that is all.
function ofTotal(value, total) {
  return value < total ? `${number.format(value)} of ${number.format(total)}` : number.format(value);
}

// The detections of a card that pass the filters, highest score first.
function visibleDetections(card) {
  const { classes } = state;
  return card.all.filter((detection) => (!classes.size || classes.has(detection[CLASS])) && passesScore(detection));
}

// How uncertain the detector is about an image: the mean of 1 - |2 score - 1|, which is 1 if every score is 0.5.
function uncertainty(visible) {
  if (!visible.length) return -1;
  return visible.reduce((sum, detection) => sum + 1 - Math.abs(2 * detection[SCORE] - 1), 0) / visible.length;
}

const highest = (visible) => (visible.length ? Math.max(...visible.map((detection) => detection[SCORE])) : -1);
const lowest = (visible) => (visible.length ? Math.min(...visible.map((detection) => detection[SCORE])) : 2);

const ORDERS = {
  run: () => 0,
  count: (a, b) => b.visible.length - a.visible.length,
  few: (a, b) => a.visible.length - b.visible.length,
  high: (a, b) => b.key - a.key,
  low: (a, b) => a.key - b.key,
  unsure: (a, b) => b.key - a.key,
  name: (a, b) => collator.compare(cards[a.card].name, cards[b.card].name),
};
const SORT_KEYS = { high: highest, low: lowest, unsure: uncertainty };
const STATUSES = ["all", "found", "empty", "failed"];

// The images that match the filters, in order, each with the number of its card and its visible detections. Failed
// images come last, except in the order of the run and by name.
function matchingImages() {
  const query = state.query.trim().toLocaleLowerCase();
  const sortKey = SORT_KEYS[state.sort];
  const matching = [];
  cards.forEach((card, position) => {
    if (query && !`${card.name}\n${card.id ?? ""}`.toLocaleLowerCase().includes(query)) return;
    const visible = visibleDetections(card);
    if (!matchesStatus(card, visible)) return;
    matching.push({ card: position, visible, key: sortKey ? sortKey(visible) : 0 });
  });
  const order = ORDERS[state.sort];
  const failedLast = !["name", "run"].includes(state.sort);
  const rank = (match) => (failedLast && cards[match.card].error ? 1 : 0);
  return matching.sort((a, b) => rank(a) - rank(b) || order(a, b) || a.card - b.card);
}

function matchesStatus(card, visible) {
  // If a class is chosen or the score is raised, only images with a visible detection match.
  const anyImage = state.status === "all" && !state.classes.size && state.score <= START;
  if (card.error) return state.status === "failed" || anyImage;
  if (state.status === "failed") return false;
  if (state.status === "empty") return visible.length === 0;
  return visible.length > 0 || anyImage;
}

// How many filters are set.
function activeFilters() {
  return [state.query.trim(), state.classes.size, state.status !== "all", state.score !== START].filter(Boolean).length;
}

// "3 person, 1 dog"
function summary(visible) {
  const counts = new Map();
  for (const detection of visible) counts.set(detection[CLASS], (counts.get(detection[CLASS]) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).map(([classNumber, count]) => `${count} ${data.classes[classNumber].name}`).join(", ");
}

const imageId = (card) => card.id ?? card.name;

// The filters and the order as the fragment of the page's URL, without those that have their first value:
// "class=Dog&class=Cat&score=0.65&sort=low&image=a.jpg".
function fragment(image) {
  const values = new URLSearchParams();
  if (state.query.trim()) values.set("name", state.query.trim());
  for (const classNumber of state.classes) values.append("class", data.classes[classNumber].name);
  if (state.status !== "all") values.set("status", state.status);
  if (state.score !== START) values.set("score", String(state.score));
  if (state.sort !== "run") values.set("sort", state.sort);
  if (image) values.set("image", image);
  return values.toString();
}

// The state that a fragment describes, or null if it describes none. Unknown names and values are ignored.
function parseFragment(text) {
  const values = new URLSearchParams(text);
  if (text && !["name", "class", "status", "score", "sort", "image"].some((key) => values.has(key))) return null;
  const classNumbers = new Map(data.classes.map(({ name: className }, classNumber) => [className, classNumber]));
  const score = values.has("score") ? Number(values.get("score")) : NaN;
  const status = values.get("status");
  const sort = values.get("sort");
  return {
    image: values.get("image"),
    changes: {
      query: values.get("name") ?? "",
      classes: new Set(values.getAll("class").filter((className) => classNumbers.has(className)).map((className) => classNumbers.get(className))),
      status: STATUSES.includes(status) ? status : "all",
      score: score >= LOWEST && score <= 1 ? hundredths(score) : START,
      sort: Object.hasOwn(ORDERS, sort ?? "") ? sort : "run",
    },
  };
}
