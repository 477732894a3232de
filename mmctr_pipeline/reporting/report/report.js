(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const options = { mode: "vega", renderer: "svg", actions: false, tooltip: false, defaultStyle: false };
  const reach = 24; // pixels around the pointer in which a point of the map is found

  for (const image of document.querySelectorAll("img[data-cover]")) {
    image.src = data.covers[image.dataset.cover];
  }
  for (const element of document.querySelectorAll("[data-chart]")) {
    const name = element.dataset.chart;
    vegaEmbed(element, data.charts[name], options)
      .then((drawn) => name === "map" && showItems(element, drawn.view))
      .catch((error) => { element.textContent = "This chart could not be drawn: " + error; });
  }

  // Show title and cover of the point nearest to the pointer. Text is only ever set as text.
  function showItems(element, view) {
    const card = element.parentElement.querySelector(".card");
    const points = view.data("items");
    const titles = new Map();
    for (const entry of document.querySelectorAll("li[data-item]")) {
      titles.set(Number(entry.dataset.item), entry.textContent);
    }
    element.addEventListener("pointermove", show);
    element.addEventListener("click", show);
    element.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") { card.hidden = true; }
    });

    function show(event) {
      const box = element.querySelector("svg").getBoundingClientRect();
      const origin = view.origin(), padding = view.padding();
      const left = event.clientX - box.left - origin[0] - padding.left;
      const top = event.clientY - box.top - origin[1] - padding.top;
      const x = view.scale("x"), y = view.scale("y");
      let nearest = null, least = reach * reach;
      for (const point of points) {
        const distance = (x(point.x) - left) ** 2 + (y(point.y) - top) ** 2;
        if (distance < least) { nearest = point; least = distance; }
      }
      card.hidden = nearest === null;
      if (nearest === null) { return; }
      const title = document.createElement("p");
      title.dir = "auto";
      title.textContent = titles.get(nearest.item);
      const cover = data.covers[nearest.item];
      const picture = document.createElement(cover ? "img" : "span");
      if (cover) {
        picture.src = cover;
        picture.alt = "";
      } else {
        picture.className = "cover";
        picture.textContent = "no cover";
      }
      card.replaceChildren(picture, title);
      const room = element.clientWidth - card.offsetWidth;
      card.style.left = Math.max(0, Math.min(room, event.clientX - box.left + 12)) + "px";
      card.style.top = event.clientY - box.top + 16 + "px";
    }
  }
})();
