const byId = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const stage = byId("stage"), graph = byId("graph"), world = byId("world"), panel = byId("panel");
const whole = { width: graph.width.baseVal.value, height: graph.height.baseVal.value };
const LEAST = 0.02, MOST = 4, STEP = 1.25, FAR = 0.45, PRINTED_HEIGHT = 1150, CONTEXT = 62;

// Layers: where they stand, and which entry they belong to.
const layers = all(".layer", world).map((group) => {
  const { e: x, f: y } = group.transform.baseVal.getItem(0).matrix;
  const box = group.querySelector("rect");
  return {
    group, x, y, width: box.width.baseVal.value, height: box.height.baseVal.value,
    entry: Number(group.dataset.entry), text: group.querySelector("title").textContent.toLowerCase(),
  };
});
const layerOf = new Map(layers.map((layer) => [layer.group, layer]));
const layersOf = new Map();
for (const layer of layers) layersOf.set(layer.entry, [...(layersOf.get(layer.entry) ?? []), layer]);
const differing = all("#summary [data-entry]").map((link) => Number(link.dataset.entry));

// The view: a point of the world times `scale`, moved by x and y, is a point of the stage.
const view = { x: 0, y: 0, scale: 1 };
const size = () => stage.getBoundingClientRect();
const clamped = (value, low, high) => Math.min(Math.max(value, low), high);

function show() {
  const { width, height } = size();
  const slack = 80;
  view.x = clamped(view.x, slack - whole.width * view.scale, width - slack);
  view.y = clamped(view.y, slack - whole.height * view.scale, height - slack);
  world.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.scale})`);
  graph.classList.toggle("far", view.scale < FAR);
  const seen = byId("window");
  seen.setAttribute("y", -view.y / view.scale);
  seen.setAttribute("height", height / view.scale);
}

function zoom(factor, x = size().width / 2, y = size().height / 2) {
  const scale = clamped(view.scale * factor, LEAST, MOST);
  view.x = x - (x - view.x) * (scale / view.scale);
  view.y = y - (y - view.y) * (scale / view.scale);
  view.scale = scale;
  show();
}

function move(x, y) {
  view.x += x;
  view.y += y;
  show();
}

function fit(scale, y = 0) {
  view.scale = clamped(scale, LEAST, 1.25);
  view.x = (size().width - whole.width * view.scale) / 2;
  view.y = y;
  show();
}
const fitWidth = () => fit(size().width / whole.width);
const fitAll = () => fit(Math.min(size().width / whole.width, size().height / whole.height));

function centre(boxes) {
  const left = Math.min(...boxes.map((box) => box.x)), right = Math.max(...boxes.map((box) => box.x + box.width));
  const top = Math.min(...boxes.map((box) => box.y)), bottom = Math.max(...boxes.map((box) => box.y + box.height));
  const { width, height } = size();
  if (view.scale < FAR) view.scale = clamped(width / (right - left + 120), FAR, 1);
  const fits = whole.width * view.scale <= width + 1;  // Then both networks stay in view.
  view.x = width / 2 - (fits ? whole.width / 2 : (left + right) / 2) * view.scale;
  view.y = height / 2 - ((top + bottom) / 2) * view.scale;
  show();
}
