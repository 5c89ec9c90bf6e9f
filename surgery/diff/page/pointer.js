// Mouse, pen and fingers: one moves, two zoom; what has hardly moved was a click.
const held = new Map();
let travelled = 0;
const where = (event) => ({ x: event.clientX - size().left, y: event.clientY - size().top });

graph.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  if (!held.size) travelled = 0;
  held.set(event.pointerId, where(event));
});
window.addEventListener("pointermove", (event) => {
  const before = held.get(event.pointerId);
  if (!before) return;
  const now = where(event);
  travelled += Math.hypot(now.x - before.x, now.y - before.y);
  if (travelled > 4) graph.classList.add("held");
  const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
  held.set(event.pointerId, now);
  if (!other) return move(now.x - before.x, now.y - before.y);
  const apart = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
  zoom(apart(now) / apart(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
});
const release = (event) => {
  held.delete(event.pointerId);
  graph.classList.remove("held");
};
window.addEventListener("pointerup", release);
window.addEventListener("pointercancel", release);

graph.addEventListener("click", (event) => {
  const layer = layerOf.get(event.target.closest(".layer"));
  if (!layer || travelled > 4) return;
  current = layer;
  open(layer.entry, { moves: false });
});
graph.addEventListener("focusin", (event) => {
  current = layerOf.get(event.target.closest(".layer")) ?? current;
});
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? size().height : 1;
  const { x, y } = where(event);
  if (event.ctrlKey || event.metaKey) zoom(Math.exp(-event.deltaY * unit * 0.004), x, y);
  else if (event.shiftKey && !event.deltaX) move(-event.deltaY * unit, 0);
  else move(-event.deltaX * unit, -event.deltaY * unit);
}, { passive: false });

const overview = byId("overview");
const jump = (event) => {
  if (event.type === "pointermove" && !event.buttons) return;
  const box = overview.getBoundingClientRect();
  view.y = size().height / 2 - ((event.clientY - box.top) / box.height) * whole.height * view.scale;
  show();
};
overview.addEventListener("pointerdown", jump);
overview.addEventListener("pointermove", jump);

const press = (id, act) => byId(id).addEventListener("click", act);
press("zoom-in", () => zoom(STEP));
press("zoom-out", () => zoom(1 / STEP));
press("zoom-width", fitWidth);
press("zoom-all", fitAll);
press("previous-hit", () => go(-1));
press("next-hit", () => go(1));
press("back", () => close());
press("previous", () => step(-1, { focuses: false }));
press("next", () => step(1, { focuses: false }));
byId("search").addEventListener("input", search);
byId("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") go(event.shiftKey ? -1 : 1);
  if (event.key === "ArrowDown" && current) visit(current);
});
byId("summary").addEventListener("click", (event) => {
  const link = event.target.closest("[data-entry]");
  if (!link) return;
  event.preventDefault();
  open(Number(link.dataset.entry));
});
