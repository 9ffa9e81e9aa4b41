// Sortable tables, copying, and the images behind a count. The page can be read without this script.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("image-lists").textContent);
  const byId = (id) => document.getElementById(id);
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const SVG = "http://www.w3.org/2000/svg";

  // The number that a cell begins with ("1,234", "56%", "0.9 to 1"), or NaN.
  const numberIn = (cell) => parseFloat(cell.textContent.replace(/,/g, ""));

  // The first click sorts numbers from high to low and names from A to Z; a second click reverses the order. Cells
  // without a value stay last.
  function sortBy(table, header) {
    const column = header.cellIndex;
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const byName = column === 0;
    const descending = header.ariaSort ? header.ariaSort !== "descending" : !byName;
    const sign = descending ? -1 : 1;
    rows.sort((a, b) => {
      if (byName) return sign * collator.compare(a.cells[0].textContent, b.cells[0].textContent);
      const [left, right] = [numberIn(a.cells[column]), numberIn(b.cells[column])];
      if (isNaN(left) || isNaN(right)) return isNaN(left) - isNaN(right);
      return sign * (left - right);
    });
    body.append(...rows);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.ariaSort = descending ? "descending" : "ascending";
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const header of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sortBy(table, header));
      header.append(button);
    }
  }

  async function copy(text, button, source) {
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // If the browser does not allow it, select the text for the user to copy.
      getSelection().selectAllChildren(source);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = label; }, 2000);
  }

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", () => copy(button.previousElementSibling.textContent, button, button.previousElementSibling));
  }

  // Images are shown only if both the page and the images are files on this machine.
  const local = location.protocol === "file:";

  // The boxes on an image; those that annotators moved are dashed where they were predicted.
  function overlay(boxes, before, width, height) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("preserveAspectRatio", "none");
    for (const [values, kind] of [[before, "before"], [boxes, "after"]]) {
      for (let start = 0; start < values.length; start += 4) {
        for (const layer of ["halo", kind]) {
          const rect = document.createElementNS(SVG, "rect");
          ["x", "y", "width", "height"].forEach((name, offset) => rect.setAttribute(name, values[start + offset]));
          rect.setAttribute("class", layer);
          svg.append(rect);
        }
      }
    }
    return svg;
  }

  function item([number, count, boxes, before]) {
    const [name, uri, width, height, id] = data.images[number];
    const li = document.createElement("li");
    const caption = document.createElement("span");
    caption.className = "file";
    caption.textContent = name;
    const times = document.createElement("b");
    times.textContent = count > 1 ? `× ${count}` : "";
    const preview = data.preview ? [previewLink(id)] : [];
    if (!local || !uri) {
      li.append(caption, times, ...preview);
      return li;
    }
    const link = document.createElement("a");
    link.href = uri;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    const image = document.createElement("img");
    image.loading = "lazy";
    image.alt = "";
    image.addEventListener("error", () => frame.remove());
    image.src = uri;
    const frame = document.createElement("span");
    frame.className = "frame";
    if (width && height) image.style.aspectRatio = `${width} / ${height}`;
    frame.append(image, ...(width && height && boxes.length ? [overlay(boxes, before, width, height)] : []));
    link.append(frame, caption, times);
    li.append(link, ...preview);
    return li;
  }

  // Leads to the image in the preview of the run, which shows all its detections.
  function previewLink(id) {
    const link = document.createElement("a");
    link.className = "preview";
    link.href = `${data.preview}#image=${encodeURIComponent(id)}`;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    link.textContent = "All detections";
    return link;
  }

  const dialog = byId("images");
  let names = "";

  function show({ title, images, entries }) {
    byId("images-title").textContent = title;
    const counted = images > entries.length ? `${entries.length} of ${images} images` : `${images} ${images === 1 ? "image" : "images"}`;
    const moved = entries.some(([, , , before]) => before.length) ? " Dashed: as predicted." : "";
    byId("images-hint").textContent = `${counted}${images > 1 ? ", most first" : ""}.${moved}`;
    byId("images-list").replaceChildren(...entries.map(item));
    names = entries.map(([number]) => data.images[number][0]).join("\n");
    dialog.showModal();
    byId("images-list").scrollTop = 0;
  }

  for (const button of document.querySelectorAll("button.images")) {
    button.addEventListener("click", () => show(data.lists[Number(button.dataset.list)]));
  }
  byId("images-close").addEventListener("click", () => dialog.close());
  byId("images-copy").addEventListener("click", (event) => copy(names, event.target, byId("images-list")));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
})();
