document.documentElement.classList.add("live");
graph.removeAttribute("viewBox");
for (const article of all("article", panel)) article.hidden = true;
fitWidth();
new ResizeObserver(show).observe(stage);
