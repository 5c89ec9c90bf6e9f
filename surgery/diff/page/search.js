// Search by name and type.
let hits = [], hit = -1;

function search() {
  const wanted = byId("search").value.trim().toLowerCase();
  hits = wanted ? layers.filter((layer) => layer.text.includes(wanted)) : [];
  for (const layer of layers) layer.group.classList.toggle("hit", false);
  for (const layer of hits) layer.group.classList.add("hit");
  hit = -1;
  tell(wanted);
  if (hits.length) go(1);
}

function go(by) {
  if (!hits.length) return;
  world.querySelector(".found")?.classList.remove("found");
  hit = (hit + by + hits.length) % hits.length;
  hits[hit].group.classList.add("found");
  current = hits[hit];
  centre([current]);
  tell(true);
}

function tell(wanted) {
  if (!hits.length) world.querySelector(".found")?.classList.remove("found");
  byId("hits").textContent = !wanted ? "" : hits.length ? `${hit + 1} of ${hits.length}` : "none";
}
