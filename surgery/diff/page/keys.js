// Keys: arrows go to the nearest layer in their direction.
const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

function nearest(from, [right, down]) {
  let best = null, least = Infinity;
  for (const layer of layers) {
    const x = layer.x - from.x;
    const above = layer.y + layer.height <= from.y, below = layer.y >= from.y + from.height;
    const y = above ? layer.y + layer.height - from.y : below ? layer.y - from.y - from.height : 0;
    if (right ? x * right <= 0 || y : !(down > 0 ? below : above)) continue;
    const far = right ? Math.abs(x) : Math.abs(y) + Math.abs(x) * 2;
    if (far < least) [best, least] = [layer, far];
  }
  return best;
}

function visit(layer) {
  if (!layer) return;
  current = layer;
  const { width, height } = size();
  const x = layer.x * view.scale + view.x, y = layer.y * view.scale + view.y;
  const isSeen = x > 0 && y > 0 && x + layer.width * view.scale < width && y + layer.height * view.scale < height;
  if (!isSeen) centre([layer]);
  layer.group.focus({ preventScroll: true });
}

const DRAWING_KEYS = {
  "+": () => zoom(STEP), "=": () => zoom(STEP), "-": () => zoom(1 / STEP), 0: fitAll,
  1: () => zoom(1 / view.scale),
  PageDown: () => move(0, -0.8 * size().height), PageUp: () => move(0, 0.8 * size().height),
  Home: () => fit(view.scale), End: () => fit(view.scale, size().height - whole.height * view.scale),
};
const PAGE_KEYS = {
  n: () => step(1), p: () => step(-1), "/": () => byId("search").focus(), Escape: () => close(),
};

graph.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = ARROWS[event.key];
  if (arrow && event.shiftKey) move(-60 * arrow[0], -60 * arrow[1]);
  else if (arrow) visit(current && document.activeElement !== graph ? nearest(current, arrow) : current ?? layers[0]);
  else if (event.key === "Enter" || event.key === " ") current && open(current.entry, { moves: false });
  else if (DRAWING_KEYS[event.key]) DRAWING_KEYS[event.key]();
  else return;
  event.preventDefault();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !PAGE_KEYS[event.key]) return;
  if (event.target.matches("input") && event.key !== "Escape") return;
  PAGE_KEYS[event.key]();
  event.preventDefault();
});
